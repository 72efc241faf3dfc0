"""Find block devices, wait for late ones, and mount one as the root.

This module does not write to devices. A writable mount by `mount_device` lets the kernel do so.
"""

import errno

from initrd.errors import reason
from initrd.guest._syscalls import MS_RDONLY
from initrd.guest.execute import timed
from initrd.guest.failure import BootError
from initrd.guest.log import Log
from initrd.guest.roots.blkid import LENGTH, Superblock, partition_uuid, probe
from initrd.guest.roots.steps import split_options
from initrd.guest.steps import Mount
from initrd.guest.wait import wait_until
from initrd.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from initrd.guest.kernel import Kernel
    from initrd.options import Root

# mount(2) fails so when the device holds another file system, or there is no driver for the type.
_WRONG_TYPE = (errno.EINVAL, errno.ENODEV)
_FILESYSTEM_DAMAGED = (errno.EIO, errno.EUCLEAN, errno.EBADMSG)
_READ_ONLY_TYPES = ("squashfs", "erofs", "iso9660", "cramfs")
_SYS_BLOCK = "/sys/class/block"
_LIST_LIMIT = 8  # devices in an error message


def find_device(source: str, timeout: float, kernel: "Kernel", log: Log) -> str:
    """Return the path of `/dev/NAME`, `UUID=…`, `LABEL=…` or `PARTUUID=…`.

    Waits up to `timeout` seconds for the device. Raises BootError when it does not appear (the
    message lists the existing devices), when the path is no block device, and when several devices
    match.
    """
    found: list[str] = []
    listings: list[tuple[str, ...]] = []  # the device paths at each change

    def attempt() -> bool:
        paths = list_device_paths(kernel)
        if listings[-1:] != [paths]:  # reading the superblocks takes time: only after a change
            found.extend(_matching_devices(source, kernel))
            listings.append(paths)
            if not found and len(listings) == 1:
                log.progress(f"waiting for {source}")
        return bool(found)

    def find_in_time() -> None:
        if not wait_until(attempt, timeout, kernel):
            found.extend(_matching_devices(source, kernel))  # reading one may have failed before
        if not found:
            raise BootError(f"cannot find {source}", *_explain_timeout(timeout, kernel))

    timed(f"find {source}", find_in_time, kernel, log)
    if len(found) > 1:
        raise BootError(
            f"cannot find {source}",
            f"more than one device matches: {', '.join(found)}",
            "name the device: /dev/NAME",
        )
    return found[0]


def _matching_devices(source: str, kernel: "Kernel") -> list[str]:
    if not source.startswith("/dev/"):
        paths = [disk.path for disk in list_disks(kernel) if disk.matches(source)]
        return paths if len(paths) < 2 else _without_own_partitions(paths, kernel)
    if kernel.is_block_device(source):
        return [source]
    if kernel.exists(source):
        raise BootError(f"cannot use {source}", "it is no block device", "name a disk")
    return []


def _without_own_partitions(paths: list[str], kernel: "Kernel") -> list[str]:
    """Leave out partitions of disks that are in the list too.

    The image of a live CD has a partition table, with a partition for the same file system, so that
    it can be written to a disk.
    """
    kept = []
    for path in paths:
        disk = f"/dev/{_disk_of(_sysfs_name(path), kernel).replace('!', '/')}"
        if disk == path or disk not in paths:
            kept.append(path)
    return kept


def _explain_timeout(timeout: float, kernel: "Kernel") -> tuple[str, str]:
    from initrd.guest.roots.unbound import find_unbound  # noqa: PLC0415 - only to explain a failure

    devices = describe_disks(kernel)
    unbound = find_unbound(kernel)
    hint = "check the name, or give the device more time with initrd.timeout="
    if "no block devices" in devices:
        hint = "attach the disk, and put its driver into the image: mkvirtinitrd --block"
    if unbound:
        names = [f"{name} ({module})" for name, module in unbound.items()]
        devices += f"; without a driver in the image are: {', '.join(names[:_LIST_LIMIT])}"
        modules = " ".join(f"--module {module}" for module in dict.fromkeys(unbound.values()))
        hint = f"check the name, and the drivers in the image: mkvirtinitrd --block, or {modules}"
    return f"not there after {timeout:g} s; {devices}", hint


def mount_device(root: "Root", device: str, target: str, kernel: "Kernel", log: Log) -> None:
    """Mount the device on `target`, with the first type of rootfstype= that succeeds.

    Without rootfstype=, the type is read from the superblock. Raises BootError.
    """
    flags, data = split_options(root.flags)
    readonly = 0 if root.writable else MS_RDONLY
    types = _types_to_try(root, device, kernel)
    for fstype in types:
        mount = Mount(device, target, fstype, flags | readonly, data)
        if _try_mount(mount, kernel, log, is_last=fstype == types[-1]):
            if root.writable and fstype in _READ_ONLY_TYPES:
                log.warn(f"rw: {fstype} cannot be written to, so the root is read-only")
            return


def _types_to_try(root: "Root", device: str, kernel: "Kernel") -> list[str]:
    """Return the types of rootfstype=, a list with commas as in the kernel; or the type found."""
    if root.fstype:
        return [fstype for fstype in root.fstype.split(",") if fstype]
    superblock = _probe_or_fail(device, kernel)
    if superblock is None:
        raise BootError(
            f"cannot mount {device}",
            "no file system is recognized on it: it is empty, damaged or of an unknown kind",
            "name its type with rootfstype=, or check how the disk was made",
        )
    return [superblock.fstype]


def _probe_or_fail(device: str, kernel: "Kernel") -> Superblock | None:
    try:
        return probe_device(device, kernel)
    except OSError as error:
        raise BootError(f"cannot read {device}", reason(error)) from error


def _try_mount(mount: Mount, kernel: "Kernel", log: Log, *, is_last: bool) -> bool:
    """Mount; return False when the type is wrong and another one is left to try."""

    def attempt() -> None:
        mount.apply(kernel)

    try:
        timed(mount.describe(), attempt, kernel, log)
    except OSError as error:
        if error.errno in _WRONG_TYPE and not is_last:
            log.progress(f"cannot {mount.describe()}: {reason(error)}; trying the next type")
            return False
        raise BootError(f"cannot {mount.describe()}", *_explain(mount, error, kernel)) from error
    return True


def _explain(mount: Mount, error: OSError, kernel: "Kernel") -> tuple[str, str]:
    if error.errno == errno.EINVAL:
        return _explain_invalid(mount, _probe_or_fail(mount.source, kernel))
    if error.errno == errno.ENODEV:
        return (
            f"this kernel has no {mount.fstype}, and no module in the image brings it",
            f"mkvirtinitrd --module fs-{mount.fstype}, or another rootfstype=",
        )
    if error.errno in _FILESYSTEM_DAMAGED:
        return f"{reason(error)}: the file system is damaged", "check it with its fsck"
    if error.errno == errno.EROFS and mount.flags & MS_RDONLY:
        return (
            "its journal has to be read in first, and the device is write-protected",
            "attach it writable once, or rootflags=noload",
        )
    if error.errno in (errno.EROFS, errno.EACCES):
        return f"{reason(error)}: the device is write-protected", "leave out rw"
    return reason(error), ""


def _explain_invalid(mount: Mount, superblock: Superblock | None) -> tuple[str, str]:
    if superblock is None:
        return "no file system is recognized on it", "check how the disk was made"
    if superblock.fstype != mount.fstype:
        hint = f"rootfstype={superblock.fstype}, or leave rootfstype= out"
        return f"the device holds {superblock}", hint
    option = "an option is not understood, or " if mount.data else ""
    return (
        f"{option}its superblock is damaged, or of a later version than this kernel knows; "
        "the kernel's message above says which",
        "check the disk, and rootflags=" if mount.data else "check the disk with its fsck",
    )


class Disk(Record):
    """A block device: a whole disk or a partition."""

    path: str  # /dev/NAME
    partuuid: str = ""
    superblock: Superblock | None = None  # None: of unknown format
    problem: str = ""  # why it cannot be read

    def matches(self, source: str) -> bool:
        """Return whether the device has this `UUID=…`, `LABEL=…` or `PARTUUID=…`."""
        key, _, value = source.partition("=")
        if key == "PARTUUID":
            return self.partuuid.lower() == value.lower() != ""
        if self.superblock is None or not value:
            return False
        if key == "UUID":
            return self.superblock.uuid.lower() == value.lower()
        return self.superblock.label == value

    def __str__(self) -> str:
        unknown = f"not readable: {self.problem}" if self.problem else "nothing known"
        words = [str(self.superblock) if self.superblock else unknown]
        words += [f"PARTUUID={self.partuuid}"] if self.partuuid else []
        return f"{self.path} ({' '.join(words)})"


def probe_device(path: str, kernel: "Kernel") -> Superblock | None:
    """Read the superblock of a device; None when its format is unknown. Raises OSError."""
    return probe(kernel.read_at(path, 0, LENGTH))


def list_disks(kernel: "Kernel") -> list[Disk]:
    """Return the block devices, without drives that hold no medium."""
    return [_read_disk(path, kernel) for path in list_device_paths(kernel)]


def list_device_paths(kernel: "Kernel") -> tuple[str, ...]:
    """Return the paths of the block devices, without drives that hold no medium."""
    paths = {
        # sysfs has ! in the place of / in the name of a device in a subdirectory of /dev
        f"/dev/{name.replace('!', '/')}"
        for name in kernel.list_directory(_SYS_BLOCK)
        if _read_attribute(name, "size", kernel) not in ("", "0")
    }
    return tuple(sorted(path for path in paths if kernel.is_block_device(path)))


def describe_disks(kernel: "Kernel") -> str:
    """Return a clause that lists the block devices, for an error message."""
    descriptions = [str(disk) for disk in list_disks(kernel)]
    if not descriptions:
        return "there are no block devices at all"
    omitted = len(descriptions) - _LIST_LIMIT
    more = [f"and {omitted} more"] if omitted > 0 else []
    return "the block devices there are: " + ", ".join(descriptions[:_LIST_LIMIT] + more)


def is_write_protected(path: str, kernel: "Kernel") -> bool:
    """Return whether the device `path` is write-protected."""
    return _read_attribute(_sysfs_name(path), "ro", kernel) == "1"


def _sysfs_name(path: str) -> str:
    """Return the name of a device in /sys/class/block."""
    return path.removeprefix("/dev/").replace("/", "!")


def _read_disk(path: str, kernel: "Kernel") -> Disk:
    try:
        return Disk(path, _read_partuuid(_sysfs_name(path), kernel), probe_device(path, kernel))
    except OSError as error:  # no medium, or damaged: such a device matches no UUID or label
        return Disk(path, problem=reason(error))


def _read_partuuid(name: str, kernel: "Kernel") -> str:
    number = _read_attribute(name, "partition", kernel)
    if not number:
        return ""
    disk = _disk_of(name, kernel)
    sector = _read_attribute(disk, "queue/logical_block_size", kernel)
    path = f"/dev/{disk.replace('!', '/')}"
    return partition_uuid(
        int(number), int(sector or 512), lambda offset, length: kernel.read_at(path, offset, length)
    )


def _disk_of(partition: str, kernel: "Kernel") -> str:
    """Return the disk that contains a partition: in sysfs, its directory is in that of the disk."""
    for name in kernel.list_directory(_SYS_BLOCK):
        if partition.startswith(name) and kernel.exists(
            f"{_SYS_BLOCK}/{name}/{partition}/partition"
        ):
            return name
    return partition


def _read_attribute(name: str, attribute: str, kernel: "Kernel") -> str:
    try:
        return kernel.read(f"{_SYS_BLOCK}/{name}/{attribute}").strip("\n")
    except OSError:  # the device has no such attribute, or has been removed
        return ""


def find_overlay_device(name: str, timeout: float, kernel: "Kernel", log: Log) -> str:
    """Return the path of the device `/dev/NAME` for an overlay; wait up to `timeout` seconds.

    Raises BootError when it does not appear, is write-protected or does not hold ext4.
    """
    device = find_device(f"/dev/{name}", timeout, kernel, log)
    if is_write_protected(device, kernel):
        raise _overlay_error(device, "the device is write-protected", "attach it writable")
    try:
        superblock = probe_device(device, kernel)
    except OSError as error:
        raise _overlay_error(device, reason(error), "") from error
    if superblock is None or superblock.fstype != "ext4":
        found = f"it holds {superblock}" if superblock else "no file system is recognized on it"
        raise _overlay_error(
            device, f"{found}, not ext4", "make it with mkfs.ext4, or name another device"
        )
    return device


def _overlay_error(device: str, why: str, hint: str) -> BootError:
    return BootError(f"cannot keep the overlay on {device}", why, hint)
