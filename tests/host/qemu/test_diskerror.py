"""The messages for a machine that was stopped because a disk cannot be written."""

import errno
import os

import pytest

from initrd.host.qemu.argv import Disk
from initrd.host.qemu.diskerror import explain_disk_stop

DISKS = (Disk("/srv/overlay.img", overlay=True), Disk("/srv/data.img"))


@pytest.mark.parametrize(
    ("drive", "what"),
    [
        ("disk0", "the overlay in /srv/overlay.img cannot be written"),
        ("disk1", "the disk /srv/data.img cannot be written"),
        ("hd", "the disk hd cannot be written"),
        ("", "the disk  cannot be written"),
    ],
)
def test_error_names_the_file_of_the_disk(drive: str, what: str) -> None:
    error = explain_disk_stop(drive, "Input/output error", DISKS)
    assert (error.what, error.hint) == (what, "")
    assert error.why == "Input/output error; the guest's latest changes are lost"


@pytest.mark.parametrize(
    ("number", "hint"),
    [
        (errno.ENOSPC, "again with more room there"),
        (errno.EDQUOT, "again with more room there"),
        (errno.EFBIG, "ulimit -f unlimited"),
        (errno.EIO, ""),
    ],
)
def test_error_has_a_hint_where_something_helps(number: int, hint: str) -> None:
    assert explain_disk_stop("disk1", os.strerror(number), DISKS).hint == hint
