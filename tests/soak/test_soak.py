"""The checks of `tests.soak` between two machines, without a machine."""

import os
import random
from pathlib import Path

import pytest

from tests.soak.checks import Place, check_nothing_left, format_table


@pytest.fixture
def place(tmp_path: Path) -> Place:
    folders = [tmp_path / name for name in ("tmp", "run", "data")]
    for folder in folders:
        folder.mkdir()
    return Place("/no/root", *folders, random.Random(1))


def descriptors() -> set[str]:
    return set(os.listdir("/proc/self/fd"))


def test_nothing_left_is_no_failure(place: Place) -> None:
    (place.runtime / "initrd").mkdir()
    check_nothing_left(place, descriptors())


@pytest.mark.parametrize("name", ["tmp/chrootvm-1/socket", "tmp/empty/", "run/initrd/socket"])
def test_file_that_is_left_is_a_failure(place: Place, tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    if name.endswith("/"):
        path.mkdir()
    else:
        path.touch()
    with pytest.raises(AssertionError):
        check_nothing_left(place, descriptors())


def test_descriptor_that_is_left_is_a_failure(place: Place) -> None:
    before = descriptors()
    opened = os.open("/dev/null", os.O_RDONLY)
    try:
        with pytest.raises(AssertionError):
            check_nothing_left(place, before)
    finally:
        os.close(opened)


def test_table_has_a_row_for_each_kind_and_the_sum() -> None:
    table = format_table({"INIT": [2.0, 1.0, 4.0], "shares": []}, ["0: INIT: a reason"])
    assert table.splitlines()[2:] == ["| INIT | 3 | 1 | 1.0, 2.0, 4.0 |", "| all | 3 | 1 | |"]
