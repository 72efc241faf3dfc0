"""Finds out PARTUUIDs: reads the partition table of a disk, GPT or MBR. Pure.

The kernel tells them itself only from Linux 6.10 on, so they are read as it reads them.

Sources: the UEFI specification, chapter 5; the kernel's `block/partitions/{efi,msdos}.c`.
"""

from initrd.guest.superblock import format_uuid

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

_GPT_HEADER = 92  # bytes
_LAST_SECTOR = 1 << 48  # beyond it, no disk goes on and the header is damaged


def partition_uuid(number: int, sector: int, read_at: "Callable[[int, int], bytes]") -> str:
    """Return the PARTUUID of partition `number` (from 1) of a disk; nothing when it has none.

    `sector` is the disk's logical block size in bytes, `read_at` returns bytes of the disk from
    an offset, so many. Raises OSError as that does.
    """
    header = read_at(sector, _GPT_HEADER)
    if header.startswith(b"EFI PART"):
        return _of_gpt(number, sector, header, read_at)
    master = read_at(0, 512)
    if master[510:] == b"\x55\xaa":
        return f"{_number(master, 440, 4):08x}-{number:02x}"
    return ""


def _of_gpt(number: int, sector: int, header: bytes, read: "Callable[[int, int], bytes]") -> str:
    table, count, size = _number(header, 72, 8), _number(header, 80, 4), _number(header, 84, 4)
    if not 1 <= number <= count or table > _LAST_SECTOR:
        return ""
    guid = read(table * sector + (number - 1) * size + 16, 16)
    # The first three fields of a GUID are little-endian, the rest is not.
    mixed = guid[3::-1] + guid[5:3:-1] + guid[7:5:-1] + guid[8:]
    return format_uuid(mixed.hex())


def _number(data: bytes, offset: int, length: int) -> int:
    return int.from_bytes(data[offset : offset + length], "little")
