"""Tells from its first bytes what a block device holds: type, UUID and label. Pure.

Only what can become a root, and what people attach by mistake, is known. No UUID and no label is
the empty string; both are as `blkid` prints them.

Sources: the kernel's `fs/*/` headers of each file system, and `Documentation/filesystems/`.
"""

from initrd.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

LENGTH = 68 * 1024  # bytes to read for `probe`: the last superblock is that of btrfs, at 64 KiB
_EXT_HAS_JOURNAL = 0x4  # s_feature_compat
_EXT_JOURNAL_DEVICE = 0x8  # s_feature_incompat
# What ext3 may have of s_feature_incompat (filetype, recover, meta_bg) and of s_feature_ro_compat
# (sparse_super, large_file, btree_dir); anything else is ext4.
_EXT3_INCOMPAT, _EXT3_RO_COMPAT = 0x2 | 0x4 | 0x10, 0x1 | 0x2 | 0x4
_GPT_HEADER = 92  # bytes
_LAST_SECTOR = 1 << 48  # beyond it, no disk goes on and the header is damaged


class Superblock(Record):
    """What a device holds, in the words of rootfstype=, UUID= and LABEL=."""

    fstype: str
    uuid: str = ""
    label: str = ""

    def __str__(self) -> str:
        words = [self.fstype]
        words += [f"UUID={self.uuid}"] if self.uuid else []
        words += [f"LABEL={self.label}"] if self.label else []
        return " ".join(words)


def probe(head: bytes) -> Superblock | None:
    """Return what the device that begins with `head` holds; None when that is not known.

    Those that begin at the first byte come first: they overwrite what was there before, while the
    others may have left an older superblock alive in front of them.
    """
    for offset, magic, read in _KINDS:
        if head[offset : offset + len(magic)] == magic:
            found = read(head)
            if found:
                return found
    return None


def _luks(head: bytes) -> Superblock:
    return Superblock("crypto_LUKS", _text(head, 168, 40))


def _squashfs(head: bytes) -> Superblock:
    return Superblock("squashfs")


def _xfs(head: bytes) -> Superblock:
    return Superblock("xfs", _uuid(head, 32), _text(head, 108, 12))


def _erofs(head: bytes) -> Superblock:
    return Superblock("erofs", _uuid(head, 1024 + 48), _text(head, 1024 + 64, 16))


def _f2fs(head: bytes) -> Superblock:
    name = head[1024 + 124 : 1024 + 124 + 1024]  # UTF-16, of which only this much is looked at
    units = (int.from_bytes(name[at : at + 2], "little") for at in range(0, len(name), 2))
    label = "".join(map(chr, units)).partition("\0")[0]
    return Superblock("f2fs", _uuid(head, 1024 + 108), label)


def _ext(head: bytes) -> Superblock:
    compat, incompat, ro_compat = (
        int.from_bytes(head[1024 + at : 1024 + at + 4], "little") for at in (0x5C, 0x60, 0x64)
    )
    if incompat & _EXT_JOURNAL_DEVICE:
        fstype = "jbd"
    elif incompat & ~_EXT3_INCOMPAT or ro_compat & ~_EXT3_RO_COMPAT:
        fstype = "ext4"
    else:
        fstype = "ext3" if compat & _EXT_HAS_JOURNAL else "ext2"
    return Superblock(fstype, _uuid(head, 1024 + 0x68), _text(head, 1024 + 0x78, 16))


def _btrfs(head: bytes) -> Superblock:
    return Superblock("btrfs", _uuid(head, 65536 + 32), _text(head, 65536 + 0x12B, 256))


def _iso9660(head: bytes) -> Superblock:
    # The date of modification, or else of creation: 16 digits, and a time zone.
    dates = (head[32768 + at : 32768 + at + 16] for at in (830, 813))
    date = next((date.decode() for date in dates if date.isdigit() and date.strip(b"0")), "")
    pairs = [date[at : at + 2] for at in range(4, 16, 2)]
    return Superblock("iso9660", "-".join([date[:4], *pairs]) if date else "", _iso_label(head))


def _iso_label(head: bytes) -> str:
    return _text(head, 32768 + 40, 32).rstrip(" ")


def _swap(head: bytes) -> Superblock:
    return Superblock("swap", _uuid(head, 1036), _text(head, 1052, 16))


def _vfat(head: bytes) -> Superblock | None:
    for kind, serial, label in ((0x52, 0x43, 0x47), (0x36, 0x27, 0x2B)):  # FAT32; FAT12 and FAT16
        if head[kind : kind + 3] == b"FAT":
            number = int.from_bytes(head[serial : serial + 4], "little")
            name = _text(head, label, 11).rstrip(" ")
            uuid = f"{number >> 16:04X}-{number & 0xFFFF:04X}"
            return Superblock("vfat", uuid, "" if name == "NO NAME" else name)
    return None


def _uuid(head: bytes, offset: int) -> str:
    return format_uuid(head[offset : offset + 16].hex())


def format_uuid(digits: str) -> str:
    """Return 32 hexadecimal digits with the dashes of a UUID; nothing for a UUID of zeros."""
    if not digits.strip("0"):
        return ""
    return "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:]))


def _text(head: bytes, offset: int, length: int) -> str:
    """Return text up to its first NUL, bytes that are no UTF-8 as the command line has them."""
    field = head[offset : offset + length].partition(b"\0")[0]
    return field.decode("utf-8", "surrogateescape")


_KINDS: "tuple[tuple[int, bytes, Callable[[bytes], Superblock | None]], ...]" = (
    (0, b"LUKS\xba\xbe", _luks),
    (0, b"hsqs", _squashfs),
    (0, b"XFSB", _xfs),
    (1024, b"\xe2\xe1\xf5\xe0", _erofs),
    (1024, b"\x10\x20\xf5\xf2", _f2fs),
    (1024 + 0x38, b"\x53\xef", _ext),
    (65536 + 64, b"_BHRfS_M", _btrfs),
    (32769, b"CD001", _iso9660),
    (4086, b"SWAPSPACE2", _swap),
    (510, b"\x55\xaa", _vfat),
)


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
