"""The value of --disk."""

import os

import pytest

from initrd.errors import HostError
from initrd.host.machine.devices import parse_disk
from initrd.host.qemu.argv import Disk


@pytest.mark.parametrize(
    ("text", "disk"),
    [
        ("/a", Disk("/a")),
        ("/a,ro", Disk("/a", writable=False)),
        ("/a,b", Disk("/a,b")),
        ("/a,rw", Disk("/a,rw")),
        ("/a,ro,", Disk("/a,ro,")),
        ("/a,,ro", Disk("/a,", writable=False)),
        ("/a,ro,ro", Disk("/a,ro", writable=False)),
    ],
)
def test_last_ro_after_a_comma_makes_a_disk_read_only(text: str, disk: Disk) -> None:
    assert parse_disk(text) == disk


def test_file_of_a_disk_is_relative_to_the_current_directory() -> None:
    assert parse_disk("a/../b,ro").path == f"{os.getcwd()}/b"


def test_disk_without_a_file_is_refused() -> None:
    with pytest.raises(HostError, match="there is no FILE"):
        parse_disk(",ro")
