"""Messages of chrootvm on a terminal."""

import pytest

from initrd.host.system.terminal import EscapeKey, escape_controls


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param("plain words\nin two lines", "plain words\nin two lines", id="plain"),
        pytest.param("größer … ✓", "größer … ✓", id="not ASCII"),
        pytest.param("name \udcff", "name \udcff", id="not UTF-8"),
        pytest.param("\x1b]0;title\x07\x1b[2J", r"\x1b]0;title\x07\x1b[2J", id="escape sequences"),
        pytest.param("a\rb\x9bc", r"a\rb\x9bc", id="return and a C1 control"),
    ],
)
def test_control_characters_of_a_guest_are_escaped(text: str, expected: str) -> None:
    assert escape_controls(text) == expected


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        pytest.param([(0.0, b"\x1d\x1d\x1d")], True, id="at once"),
        pytest.param([(0.0, b"\x1d"), (0.5, b"\x1d"), (1.0, b"\x1d")], True, id="within a second"),
        pytest.param([(0.0, b"\x1d"), (0.5, b"\x1d"), (1.1, b"\x1d")], False, id="too slow"),
        pytest.param(
            [(0.0, b"\x1d"), (0.9, b"\x1d"), (1.1, b"\x1d"), (1.2, b"\x1d")],
            True,
            id="the last three",
        ),
        pytest.param([(0.0, b"\x1d\x1d"), (0.1, b"a\x1d")], False, id="another key between"),
        pytest.param([(0.0, b"\x1d\x1d")], False, id="twice"),
        pytest.param([(0.0, b"ab\x1d\x1d\x1dcd"), (9.0, b"x")], True, id="in other keys"),
        pytest.param([(0.0, b"\x1b\x1c\x1e")], False, id="other control keys"),
        pytest.param([(0.0, b"")], False, id="nothing"),
    ],
)
def test_escape_key_is_complete_after_three_times_in_a_second(
    keys: list[tuple[float, bytes]], expected: bool
) -> None:
    escape = EscapeKey()
    for now, piece in keys:
        escape.feed(piece, now)
    assert escape.is_complete is expected
