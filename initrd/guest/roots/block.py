"""Finds block devices, waits for those that are late, and mounts one as the root.

Nothing here writes to a device; `mount_device` with a writable root lets the kernel do so.
"""

import errno

from initrd.guest._syscalls import MS_RDONLY
from initrd.guest.execute import timed
from initrd.guest.failure import BootError, reason
from initrd.guest.log import Log
from initrd.guest.roots.blkid import LENGTH, Superblock, partition_uuid, probe
from initrd.guest.roots.steps import split_options
from initrd.guest.steps import Mount
from initrd.guest.wait import wait_until
from initrd.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from initrd.guest.kernel import Kernel
    from initrd.guest.roots.blkid import Superblock
    from initrd.options import Root

# What a driver answers when the device does not hold its file system; or there is no such driver.
_NOT_MINE = (errno.EINVAL, errno.ENODEV)
_DAMAGED = (errno.EIO, errno.EUCLEAN, errno.EBADMSG)
_NEVER_WRITTEN = ("squashfs", "erofs", "iso9660", "cramfs")  # the kernel mounts these read-only
_BLOCK = "/sys/class/block"
_MOST_LISTED = 8


def find_device(source: str, timeout: float, kernel: "Kernel", log: Log) -> str:
    """Return the path of `/dev/NAME`, `UUID=…`, `LABEL=…` or `PARTUUID=…`.

    Waits up to `timeout` seconds for it. Raises BootError when it does not come (and says which
    devices are there), when it is no block device, and when two devices answer to the name.
    """
    found: list[str] = []
    seen: list[tuple[str, ...]] = []  # the devices that were there at the last look

    def attempt() -> bool:
        there = present(kernel)
        if seen[-1:] != [there]:  # reading what they hold takes time: only when there are new ones
            found.extend(_candidates(source, kernel))
            seen.append(there)
            if not found and len(seen) == 1:
                log.progress(f"waiting for {source}")
        return bool(found)

    def attempts() -> None:
        if not wait_until(attempt, timeout, kernel):
            raise BootError(f"cannot find {source}", *_not_there(timeout, kernel))

    timed(f"find {source}", attempts, kernel, log)
    if len(found) > 1:
        raise BootError(
            f"cannot find {source}",
            f"more than one device answers to it: {', '.join(found)}",
            "name the device: /dev/NAME",
        )
    return found[0]


def _candidates(source: str, kernel: "Kernel") -> list[str]:
    if not source.startswith("/dev/"):
        return [disk.path for disk in disks(kernel) if disk.answers_to(source)]
    if kernel.is_block_device(source):
        return [source]
    if kernel.exists(source):
        raise BootError(f"cannot use {source}", "it is no block device", "name a disk")
    return []


def _not_there(timeout: float, kernel: "Kernel") -> tuple[str, str]:
    there = describe_disks(kernel)
    hint = "check the name, or give the device more time with initrd.timeout="
    if "no block devices" in there:
        hint = "attach the disk, and put its driver into the image: mkvirtinitrd --block"
    return f"not there after {timeout:g} s; {there}", hint


def mount_device(root: "Root", device: str, target: str, kernel: "Kernel", log: Log) -> None:
    """Mount the device on `target`: as the first of rootfstype= that fits, or as what it holds.

    Raises BootError.
    """
    flags, data = split_options(root.flags)
    readonly = 0 if root.writable else MS_RDONLY
    types = _types(root, device, kernel)
    for fstype in types:
        mount = Mount(device, target, fstype, flags | readonly, data)
        if _fits(mount, kernel, log, last=fstype == types[-1]):
            if root.writable and fstype in _NEVER_WRITTEN:
                log.warn(f"rw: {fstype} cannot be written to, so the root is read-only")
            return


def _types(root: "Root", device: str, kernel: "Kernel") -> list[str]:
    """Return the types to try: those asked for, separated by commas as the kernel has it."""
    if root.fstype:
        return [fstype for fstype in root.fstype.split(",") if fstype]
    holds = _look_at(device, kernel)
    if holds is None:
        raise BootError(
            f"cannot mount {device}",
            "no file system is recognized on it: it is empty, damaged or of an unknown kind",
            "name its type with rootfstype=, or check how the disk was made",
        )
    return [holds.fstype]


def _look_at(device: str, kernel: "Kernel") -> "Superblock | None":
    try:
        return look_at(device, kernel)
    except OSError as error:
        raise BootError(f"cannot read {device}", reason(error)) from error


def _fits(mount: Mount, kernel: "Kernel", log: Log, *, last: bool) -> bool:
    """Mount; False when the device holds something else and there is another type to try."""

    def attempt() -> None:
        mount.apply(kernel)

    try:
        timed(mount.describe(), attempt, kernel, log)
    except OSError as error:
        if error.errno in _NOT_MINE and not last:
            log.progress(f"cannot {mount.describe()}: {reason(error)}; trying the next type")
            return False
        raise BootError(f"cannot {mount.describe()}", *_explain(mount, error, kernel)) from error
    return True


def _explain(mount: Mount, error: OSError, kernel: "Kernel") -> tuple[str, str]:
    if error.errno == errno.EINVAL:
        return _explain_invalid(mount, _look_at(mount.source, kernel))
    if error.errno == errno.ENODEV:
        return (
            f"this kernel has no {mount.fstype}, and no module in the image brings it",
            f"mkvirtinitrd --module {mount.fstype}, or another rootfstype=",
        )
    if error.errno in _DAMAGED:
        return f"{reason(error)}: the file system is damaged", "check it with its fsck"
    if error.errno == errno.EROFS and mount.flags & MS_RDONLY:
        return (
            "its journal has to be read in first, and the device is write-protected",
            "attach it writable once, or rootflags=noload",
        )
    if error.errno in (errno.EROFS, errno.EACCES):
        return f"{reason(error)}: the device is write-protected", "leave out rw"
    return reason(error), ""


def _explain_invalid(mount: Mount, holds: "Superblock | None") -> tuple[str, str]:
    if holds is None:
        return "no file system is recognized on it", "check how the disk was made"
    if holds.fstype != mount.fstype:
        hint = f"rootfstype={holds.fstype}, or leave rootfstype= out"
        return f"the device holds {holds}", hint
    option = "an option is not understood, or " if mount.data else ""
    return (
        f"{option}its superblock is damaged, or of a later version than this kernel knows; "
        "the kernel's message above says which",
        "check the disk, and rootflags=" if mount.data else "check the disk with its fsck",
    )


class Disk(Record):
    """A block device: a whole disk or a partition."""

    path: str  # below /dev
    partuuid: str = ""
    holds: Superblock | None = None  # None: nothing that is known

    def answers_to(self, source: str) -> bool:
        """Tell whether this is the device that `UUID=`, `LABEL=` or `PARTUUID=` asks for."""
        word, _, value = source.partition("=")
        if word == "PARTUUID":
            return self.partuuid.lower() == value.lower() != ""
        if self.holds is None or not value:
            return False
        if word == "UUID":
            return self.holds.uuid.lower() == value.lower()
        return self.holds.label == value

    def __str__(self) -> str:
        words = [str(self.holds)] if self.holds else ["nothing known"]
        words += [f"PARTUUID={self.partuuid}"] if self.partuuid else []
        return f"{self.path} ({' '.join(words)})"


def look_at(path: str, kernel: "Kernel") -> Superblock | None:
    """Return what the device holds; None when that is not known. Raises OSError."""
    return probe(kernel.read_at(path, 0, LENGTH))


def disks(kernel: "Kernel") -> list[Disk]:
    """Return the block devices that are there, those without a medium left out."""
    return [_disk(path, kernel) for path in present(kernel)]


def present(kernel: "Kernel") -> tuple[str, ...]:
    """Return the paths of the block devices that are there, those without a medium left out."""
    paths = {
        # as the kernel names nodes in subdirectories
        f"/dev/{name.replace('!', '/')}"
        for name in kernel.list_directory(_BLOCK)
        if _attribute(name, "size", kernel) not in ("", "0")
    }
    return tuple(sorted(path for path in paths if kernel.is_block_device(path)))


def describe_disks(kernel: "Kernel") -> str:
    """Say which block devices are there, for a message about the one that is not."""
    there = [str(disk) for disk in disks(kernel)]
    if not there:
        return "there are no block devices at all"
    more = [f"and {len(there) - _MOST_LISTED} more"] if len(there) > _MOST_LISTED else []
    return "the block devices there are: " + ", ".join(there[:_MOST_LISTED] + more)


def is_write_protected(path: str, kernel: "Kernel") -> bool:
    """Tell whether the device `path` cannot be written to at all."""
    return _attribute(_name(path), "ro", kernel) == "1"


def _name(path: str) -> str:
    """Return the device's name in /sys/class/block."""
    return path.removeprefix("/dev/").replace("/", "!")


def _disk(path: str, kernel: "Kernel") -> Disk:
    try:
        return Disk(path, _partuuid(_name(path), kernel), look_at(path, kernel))
    except OSError:  # a drive without a medium, or a damaged one: it is not what is looked for
        return Disk(path)


def _partuuid(name: str, kernel: "Kernel") -> str:
    number = _attribute(name, "partition", kernel)
    if not number:
        return ""
    whole = _whole_disk(name, kernel)
    sector = _attribute(whole, "queue/logical_block_size", kernel)
    path = f"/dev/{whole.replace('!', '/')}"
    return partition_uuid(
        int(number), int(sector or 512), lambda at, length: kernel.read_at(path, at, length)
    )


def _whole_disk(partition: str, kernel: "Kernel") -> str:
    """Return the disk that a partition is on: the kernel shows it as the disk's subdirectory."""
    for name in kernel.list_directory(_BLOCK):
        if partition.startswith(name) and kernel.exists(f"{_BLOCK}/{name}/{partition}/partition"):
            return name
    return partition


def _attribute(name: str, attribute: str, kernel: "Kernel") -> str:
    try:
        return kernel.read(f"{_BLOCK}/{name}/{attribute}").strip("\n")
    except OSError:  # the device has no such attribute, or has just gone
        return ""


def find_layer(name: str, timeout: float, kernel: "Kernel", log: Log) -> str:
    """Return the path of the device `/dev/NAME`, waiting up to `timeout` seconds for it.

    Raises BootError unless it is there in time, can be written to and holds ext4.
    """
    device = find_device(f"/dev/{name}", timeout, kernel, log)
    if is_write_protected(device, kernel):
        raise _unfit(device, "the device is write-protected", "attach it writable")
    try:
        holds = look_at(device, kernel)
    except OSError as error:
        raise _unfit(device, reason(error), "") from error
    if holds is None or holds.fstype != "ext4":
        found = f"it holds {holds}" if holds else "no file system is recognized on it"
        raise _unfit(device, f"{found}, not ext4", "make it with mkfs.ext4, or name another device")
    return device


def _unfit(device: str, why: str, hint: str) -> BootError:
    return BootError(f"cannot keep the overlay on {device}", why, hint)
