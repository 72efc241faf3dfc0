"""Leaves the disks in order: makes read-only what can be written to, and unmounts it.

What is kept in memory is left alone: it is gone with the power.
Source of the format: the kernel's `Documentation/filesystems/proc.rst`, section 3.5.
"""

from initrd.guest._syscalls import MS_RDONLY, MS_REMOUNT
from initrd.guest.failure import reason
from initrd.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from initrd.guest.kernel import Kernel
    from initrd.guest.log import Log

IN_MEMORY = (
    "autofs binfmt_misc bpf cgroup cgroup2 configfs debugfs devpts devtmpfs efivarfs fusectl "
    "hugetlbfs mqueue nsfs proc pstore ramfs rootfs rpc_pipefs securityfs selinuxfs sysfs tmpfs "
    "tracefs"
)


class Mounted(Record):
    """One line of /proc/self/mountinfo."""

    target: str
    fstype: str
    writable: bool


def writable_mounts(mountinfo: str) -> tuple[Mounted, ...]:
    """Return the mounts that may have something to write, the latest first."""
    mounts = (_parse(line) for line in mountinfo.splitlines())
    found = [mount for mount in mounts if mount.writable and mount.fstype not in IN_MEMORY.split()]
    return tuple(reversed(found))


def unmount_all(kernel: "Kernel", log: "Log") -> None:
    """Write everything, and unmount or remount read-only: what fails is said, and survived."""
    kernel.sync()  # also what is mounted out of sight, below an overlay or in a mount namespace
    try:
        mountinfo = kernel.read("/proc/self/mountinfo")
    except OSError as error:  # a root without /proc
        log.warn(f"cannot tell what is mounted: {reason(error)}; it is synced, not unmounted")
        return
    for mount in writable_mounts(mountinfo):
        _unmount(mount, kernel, log)


def _unmount(mount: Mounted, kernel: "Kernel", log: "Log") -> None:
    """Make a file system read-only, and unmount it: a layer of another may stay in use.

    One of both is enough. It is in use when a process that even SIGKILL cannot end uses it.
    """
    failure = _attempt(lambda: kernel.mount("", mount.target, "", MS_REMOUNT | MS_RDONLY, ""))
    if mount.target != "/" and not _attempt(lambda: kernel.unmount(mount.target)):
        return
    if failure:
        log.warn(f"cannot make {mount.target} ({mount.fstype}) read-only: {reason(failure)}")


def _attempt(action: "Callable[[], None]") -> "OSError | None":
    try:
        action()
    except OSError as error:
        return error
    return None


def _parse(line: str) -> Mounted:
    before, _, after = line.partition(" - ")
    fields, last = before.split(" "), after.split(" ")
    writable = "rw" in fields[5].split(",") and "rw" in last[-1].split(",")
    return Mounted(_unescape(fields[4]), last[0], writable)


def _unescape(path: str) -> str:
    """Return a path as it is: space, tab, line break and backslash are written `\\ooo`."""
    first, *others = path.split("\\")
    return first + "".join(chr(int(other[:3], 8)) + other[3:] for other in others)
