"""Records: immutable, comparable, and constructed only with valid fields."""

import pytest

from initrd.record import Record


class Point(Record):
    x: int
    y: int = 2


class Pixel(Point):
    colour: str = "red"


def test_fields_are_set_by_position_by_name_and_by_default() -> None:
    assert (Point(1).x, Point(1).y, Point(x=3, y=4).y) == (1, 2, 4)


def test_a_subclass_adds_its_fields_after_its_parents() -> None:
    assert Pixel(1, 2, "blue") == Pixel(x=1, y=2, colour="blue")


def test_records_are_equal_by_type_and_values() -> None:
    assert Point(1) == Point(1, 2)
    assert Point(1) != Pixel(1)
    assert len({Point(1), Point(1, 2), Point(2)}) == 2


def test_replace_returns_a_changed_copy() -> None:
    point = Point(1)
    assert point.replace(y=9) == Point(1, 9)
    assert point == Point(1)


def test_repr_is_the_constructor_call() -> None:
    assert repr(Pixel(1)) == "Pixel(x=1, y=2, colour='red')"


@pytest.mark.parametrize(
    ("args", "kwargs"),
    [
        pytest.param((), {}, id="missing field"),
        pytest.param((1, 2, 3), {}, id="too many arguments"),
        pytest.param((1,), {"x": 1}, id="field given twice"),
        pytest.param((1,), {"z": 1}, id="unknown field"),
    ],
)
def test_constructor_refuses_invalid_fields(args: tuple[int, ...], kwargs: dict[str, int]) -> None:
    with pytest.raises(TypeError):
        Point(*args, **kwargs)


def test_assignment_to_a_field_is_refused() -> None:
    with pytest.raises(AttributeError):
        Point(1).x = 2  # type: ignore[misc]
