"""Explain why QEMU has stopped a machine: the host cannot write one of its disks.

QEMU reports errors of reading to the guest, as a disk does. After an error of writing it stops the
machine and sends an event. The guest would report such an error too late: a command may have ended
when the kernel writes its data.
"""

import errno
import os

from initrd.host.qemu.argv import Disk, find_disk
from initrd.host.system.hosterror import HostError

_LOST = "the guest's latest changes are lost"
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT)


class DiskError(HostError):
    """The host cannot write a disk of a machine, which QEMU has stopped."""


def explain_disk_stop(drive: str, why: str, disks: tuple[Disk, ...]) -> DiskError:
    """Return the error for an event of QEMU: its name of a disk, and the text of the error.

    The disk may also be one of --qemu-arg.
    """
    disk = find_disk(drive, disks)
    if disk is None:
        return DiskError(f"the disk {drive} cannot be written", f"{why}; {_LOST}")
    what = "the overlay in" if disk.overlay else "the disk"
    return DiskError(f"{what} {disk.path} cannot be written", f"{why}; {_LOST}", _find_hint(why))


def _find_hint(why: str) -> str:
    """Return what to try. QEMU sends the text of an error without its number."""
    if why == os.strerror(errno.EFBIG):
        return "ulimit -f unlimited"
    if why in map(os.strerror, _NO_ROOM):
        return "again with more room there"
    return ""
