"""Looks at the block devices that are there: their names, and what they hold."""

from initrd.guest.partitions import partition_uuid
from initrd.guest.superblock import LENGTH, Superblock, probe
from initrd.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from initrd.guest.kernel import Kernel

_BLOCK = "/sys/class/block"
_MOST_LISTED = 8


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
