"""Lock the images of a machine's disks: a writable one for one machine, read-only ones are shared.

The locks are between chrootvm's machines. QEMU has locks of its own, which other programs that use
an image see, but which say less about the reason, and come when everything else is started.

Sources: flock(2), open(2).
"""

import errno
import fcntl
import os
import stat
from contextlib import contextmanager

from initrd.errors import reason
from initrd.host.machine.overlayfile import lock_overlay_file
from initrd.host.qemu.argv import Disk
from initrd.host.system.hosterror import HostError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping


@contextmanager
def lock_disks(disks: tuple[Disk, ...], environment: "Mapping[str, str]") -> "Iterator[None]":
    """Hold the locks of these disks while the `with` lasts. Raises HostError.

    The image of an overlay is created when it is missing.
    """
    locked: list[tuple[Disk, int]] = []
    try:
        for disk in disks:
            _check_unused(disk, locked)
            if disk.overlay:
                locked.append((disk, lock_overlay_file(disk.path, environment)))
            else:
                locked.append((disk, _lock(disk)))
        yield
    finally:
        for _, descriptor in locked:
            os.close(descriptor)


def _check_unused(disk: Disk, locked: list[tuple[Disk, int]]) -> None:
    """Raise HostError for a file that is another disk of this machine, unless both only read it."""
    for other, descriptor in locked:
        is_same = _is_same_file(disk.path, descriptor)
        if is_same and (disk.writable or other.writable):
            why = "it is another disk of this machine, and one of the two is writable"
            raise HostError(_cannot_use(disk), why, "each FILE once, or each with ,ro")


def _is_same_file(path: str, descriptor: int) -> bool:
    try:
        return os.path.samestat(os.stat(path), os.fstat(descriptor))
    except OSError:  # the path cannot be opened either, which is reported there
        return False


def _lock(disk: Disk) -> int:
    """Return a descriptor of the disk's file, locked; closing it releases the lock."""
    descriptor = _open(disk)
    try:
        _check(disk, descriptor)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _open(disk: Disk) -> int:
    # O_EXCL without O_CREAT: a block device that is mounted on the host is refused (EBUSY).
    access = os.O_RDWR | os.O_EXCL if disk.writable else os.O_RDONLY
    try:
        # O_NONBLOCK: open a named pipe without waiting for a writer, so that it can be reported.
        return os.open(disk.path, access | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
    except OSError as error:
        is_for_readers = disk.writable and error.errno in (errno.EACCES, errno.EROFS, errno.EBUSY)
        hint = f"{disk.path},ro" if is_for_readers else ""
        raise HostError(_cannot_use(disk), reason(error), hint) from error


def _check(disk: Disk, descriptor: int) -> None:
    """Lock the open file. Raises HostError when that is not possible, or it is no disk."""
    found = os.fstat(descriptor)
    mode = found.st_mode
    if stat.S_ISDIR(mode):  # one that is opened to be read
        raise HostError(_cannot_use(disk), os.strerror(errno.EISDIR))
    if not (stat.S_ISREG(mode) or stat.S_ISBLK(mode)):
        raise HostError(_cannot_use(disk), "it is neither a file nor a disk")
    try:
        fcntl.flock(descriptor, (fcntl.LOCK_EX if disk.writable else fcntl.LOCK_SH) | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno != errno.EWOULDBLOCK:  # a file system without locks
            raise HostError(_cannot_use(disk), reason(error)) from error
        why = "another chrootvm is using it"
        hint = "wait for that to end, or a copy; machines share it where each has ,ro"
        raise HostError(_cannot_use(disk), why, hint) from error
    if stat.S_ISREG(mode) and not found.st_size:
        raise HostError(_cannot_use(disk), "it is empty", f"truncate -s 1G {disk.path}")


def _cannot_use(disk: Disk) -> str:
    return f"cannot use {disk.path} as a disk"
