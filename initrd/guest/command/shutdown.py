"""Leave file systems consistent before the power-off: sync, remount read-only, unmount.

File systems in memory are skipped: their content is lost at power-off in any case.
Source of the format: the kernel's `Documentation/filesystems/proc.rst`, section 3.5.
"""

from initrd.errors import reason
from initrd.guest._syscalls import MS_RDONLY, MS_REMOUNT
from initrd.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from initrd.guest.kernel import Kernel
    from initrd.guest.log import Log

_MEMORY_FILESYSTEMS = (
    "autofs binfmt_misc bpf cgroup cgroup2 configfs debugfs devpts devtmpfs efivarfs fusectl "
    "hugetlbfs mqueue nsfs proc pstore ramfs rootfs rpc_pipefs securityfs selinuxfs sysfs tmpfs "
    "tracefs"
)


class MountEntry(Record):
    """One line of /proc/self/mountinfo."""

    target: str
    fstype: str
    writable: bool


def find_writable_mounts(mountinfo: str) -> tuple[MountEntry, ...]:
    """Return the writable mounts that are not in memory, the latest first."""
    lines = mountinfo.split("\n")[:-1]  # not `splitlines`: names may have a \r
    mounts = (_parse_line(line) for line in lines)
    skipped = _MEMORY_FILESYSTEMS.split()
    found = [mount for mount in mounts if mount.writable and mount.fstype not in skipped]
    return tuple(reversed(found))


def unmount_all(kernel: "Kernel", log: "Log") -> None:
    """Sync, then unmount each writable mount or remount it read-only. A failure is only a warning.

    sync(2) also covers file systems whose mount is not visible here: below an overlay, or in
    another mount namespace.
    """
    kernel.sync()
    try:
        mountinfo = kernel.read("/proc/self/mountinfo")
    except OSError as error:  # a root without /proc
        log.warn(f"cannot tell what is mounted: {reason(error)}; it is synced, not unmounted")
        return
    for mount in find_writable_mounts(mountinfo):
        _unmount(mount, kernel, log)


def _unmount(mount: MountEntry, kernel: "Kernel", log: "Log") -> None:
    """Remount a file system read-only, and unmount it; one of both is enough.

    A layer of an overlay stays in use after its unmount, so it is made read-only first. Either call
    fails while a process that SIGKILL does not end uses the file system.
    """
    remount_error = _attempt(lambda: kernel.mount("", mount.target, "", MS_REMOUNT | MS_RDONLY, ""))
    if mount.target != "/" and not _attempt(lambda: kernel.unmount(mount.target)):
        return
    if remount_error:
        log.warn(f"cannot make {mount.target} ({mount.fstype}) read-only: {reason(remount_error)}")


def _attempt(action: "Callable[[], None]") -> "OSError | None":
    """Do `action`; return its error, None on success."""
    try:
        action()
    except OSError as error:
        return error
    return None


def _parse_line(line: str) -> MountEntry:
    before, _, after = line.partition(" - ")
    fields, last_fields = before.split(" "), after.split(" ")
    writable = "rw" in fields[5].split(",") and "rw" in last_fields[-1].split(",")
    return MountEntry(_unescape(fields[4]), last_fields[0], writable)


def _unescape(path: str) -> str:
    """Decode `\\ooo`, the escape of a space, tab, line break or backslash in a path."""
    first, *others = path.split("\\")
    return first + "".join(chr(int(other[:3], 8)) + other[3:] for other in others)
