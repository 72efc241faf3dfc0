"""Read type, UUID and label of a file system from the first bytes of a device, as blkid(8). Pure.

Known are the file systems that can be a root, and formats that users attach by mistake. UUID and
label are as `blkid` prints them; a missing one is the empty string. PARTUUIDs are read from the
partition table.

Sources: the kernel's `fs/*/` headers of each file system, and `Documentation/filesystems/`.
"""

from initrd.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

LENGTH = 68 * 1024  # bytes to read for `probe`: the last superblock is that of btrfs, at 64 KiB
_EXT_HAS_JOURNAL = 0x4  # s_feature_compat
_EXT_JOURNAL_DEVICE = 0x8  # s_feature_incompat
# Features of ext3 in s_feature_incompat (filetype, recover, meta_bg) and in s_feature_ro_compat
# (sparse_super, large_file, btree_dir); a file system with others is ext4.
_EXT3_INCOMPAT, _EXT3_RO_COMPAT = 0x2 | 0x4 | 0x10, 0x1 | 0x2 | 0x4
_UTF_16_LE = b"\xff\xfe"  # the mark of the order of bytes; /init has no codec utf-16-le
_UTF_16_BE = b"\xfe\xff"
_ISO_DESCRIPTORS, _ISO_SECTOR = 32768, 2048  # bytes
_JOLIET = (b"%/@", b"%/C", b"%/E")  # the escape sequences of its three levels
_GPT_HEADER = 92  # bytes
_LAST_SECTOR = 1 << 48  # a partition table beyond it means that the header is damaged


class Superblock(Record):
    """The contents of a device, as rootfstype=, UUID= and LABEL= name them."""

    fstype: str
    uuid: str = ""
    label: str = ""

    def __str__(self) -> str:
        words = [self.fstype]
        words += [f"UUID={self.uuid}"] if self.uuid else []
        words += [f"LABEL={self.label}"] if self.label else []
        return " ".join(words)


def probe(head: bytes) -> Superblock | None:
    """Return the superblock of a device that begins with `head`; None when the format is unknown.

    Formats with a signature in the first bytes are tried first: making one of them overwrites an
    older signature there, while the others may leave an older signature in front of their own.
    """
    for offset, magic, read in _FORMATS:
        if head[offset : offset + len(magic)] == magic:
            superblock = read(head)
            if superblock:
                return superblock
    return None


def _read_luks(head: bytes) -> Superblock:
    return Superblock("crypto_LUKS", _read_text(head, 168, 40))


def _read_squashfs(head: bytes) -> Superblock:
    return Superblock("squashfs")


def _read_xfs(head: bytes) -> Superblock:
    return Superblock("xfs", _read_uuid(head, 32), _read_text(head, 108, 12))


def _read_erofs(head: bytes) -> Superblock:
    return Superblock("erofs", _read_uuid(head, 1024 + 48), _read_text(head, 1024 + 64, 16))


def _read_f2fs(head: bytes) -> Superblock:
    name = head[1024 + 124 : 1024 + 124 + 1024]  # at most 512 code units of UTF-16
    label = (_UTF_16_LE + name).decode("utf-16", "replace").partition("\0")[0]
    return Superblock("f2fs", _read_uuid(head, 1024 + 108), label)


def _read_ext(head: bytes) -> Superblock:
    compat, incompat, ro_compat = (
        int.from_bytes(head[1024 + at : 1024 + at + 4], "little") for at in (0x5C, 0x60, 0x64)
    )
    if incompat & _EXT_JOURNAL_DEVICE:
        fstype = "jbd"
    elif incompat & ~_EXT3_INCOMPAT or ro_compat & ~_EXT3_RO_COMPAT:
        fstype = "ext4"
    else:
        fstype = "ext3" if compat & _EXT_HAS_JOURNAL else "ext2"
    return Superblock(fstype, _read_uuid(head, 1024 + 0x68), _read_text(head, 1024 + 0x78, 16))


def _read_btrfs(head: bytes) -> Superblock:
    return Superblock("btrfs", _read_uuid(head, 65536 + 32), _read_text(head, 65536 + 0x12B, 256))


def _read_iso9660(head: bytes) -> Superblock:
    # The date of modification, or else of creation: 16 digits; the time zone is not used.
    begins = (_ISO_DESCRIPTORS + at for at in (830, 813))
    dates = (head[begin : begin + 16] for begin in begins)
    date = next((date.decode() for date in dates if date.isdigit() and date.strip(b"0")), "")
    pairs = [date[at : at + 2] for at in range(4, 16, 2)]
    return Superblock(
        "iso9660", "-".join([date[:4], *pairs]) if date else "", _read_iso_label(head)
    )


def _read_iso_label(head: bytes) -> str:
    """Return the label in Joliet's letters, and what it has no space for from the other label.

    Joliet has 16 letters of any alphabet. The label of ISO 9660 itself has 32 capitals and digits,
    with `_` in the place of all others.
    """
    label = _read_text(head, _ISO_DESCRIPTORS + 40, 32).rstrip(" ")
    joliet = _read_joliet_label(head)
    is_same = all(a in ("_", b.upper()) for a, b in zip(label, joliet, strict=False))
    return joliet + label[len(joliet) :] if is_same else joliet


def _read_joliet_label(head: bytes) -> str:
    for start in range(_ISO_DESCRIPTORS, len(head), _ISO_SECTOR):
        kind, escape = head[start : start + 1], head[start + 88 : start + 91]
        if kind == b"\xff":  # the last descriptor
            break
        if kind == b"\2" and escape in _JOLIET:
            name = head[start + 40 : start + 72]
            return (_UTF_16_BE + name).decode("utf-16", "replace").partition("\0")[0].rstrip(" ")
    return ""


def _read_swap(head: bytes) -> Superblock:
    return Superblock("swap", _read_uuid(head, 1036), _read_text(head, 1052, 16))


def _read_vfat(head: bytes) -> Superblock | None:
    for kind, serial, label in ((0x52, 0x43, 0x47), (0x36, 0x27, 0x2B)):  # FAT32; FAT12 and FAT16
        if head[kind : kind + 3] == b"FAT":
            number = int.from_bytes(head[serial : serial + 4], "little")
            name = _read_text(head, label, 11).rstrip(" ")
            uuid = f"{number >> 16:04X}-{number & 0xFFFF:04X}"
            return Superblock("vfat", uuid, "" if name == "NO NAME" else name)
    return None


def _read_uuid(head: bytes, offset: int) -> str:
    return format_uuid(head[offset : offset + 16].hex())


def format_uuid(digits: str) -> str:
    """Return 32 hexadecimal digits with the dashes of a UUID; empty for a UUID of zeros."""
    if not digits.strip("0"):
        return ""
    return "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:]))


def _read_text(head: bytes, offset: int, length: int) -> str:
    """Return the text before the first NUL; bytes that are not UTF-8 become surrogates."""
    field = head[offset : offset + length].partition(b"\0")[0]
    return field.decode("utf-8", "surrogateescape")


_FORMATS: "tuple[tuple[int, bytes, Callable[[bytes], Superblock | None]], ...]" = (
    (0, b"LUKS\xba\xbe", _read_luks),
    (0, b"hsqs", _read_squashfs),
    (0, b"XFSB", _read_xfs),
    (1024, b"\xe2\xe1\xf5\xe0", _read_erofs),
    (1024, b"\x10\x20\xf5\xf2", _read_f2fs),
    (1024 + 0x38, b"\x53\xef", _read_ext),
    (65536 + 64, b"_BHRfS_M", _read_btrfs),
    (32769, b"CD001", _read_iso9660),
    (4086, b"SWAPSPACE2", _read_swap),
    (510, b"\x55\xaa", _read_vfat),
)


def partition_uuid(number: int, sector: int, read_at: "Callable[[int, int], bytes]") -> str:
    """Return the PARTUUID of partition `number` (from 1) of a disk; empty when it has none.

    `sector` is the logical block size of the disk in bytes. `read_at` takes an offset and a length
    and returns bytes of the disk. Raises OSError as `read_at` does.
    """
    header = read_at(sector, _GPT_HEADER)
    if header.startswith(b"EFI PART"):
        return _gpt_partition_uuid(number, sector, header, read_at)
    mbr = read_at(0, 512)
    if mbr[510:] == b"\x55\xaa":
        return f"{_read_number(mbr, 440, 4):08x}-{number:02x}"
    return ""


def _gpt_partition_uuid(
    number: int, sector: int, header: bytes, read_at: "Callable[[int, int], bytes]"
) -> str:
    table, count = _read_number(header, 72, 8), _read_number(header, 80, 4)
    size = _read_number(header, 84, 4)
    if not 1 <= number <= count or table > _LAST_SECTOR:
        return ""
    guid = read_at(table * sector + (number - 1) * size + 16, 16)
    # The first three fields of a GUID are little-endian, the rest is not.
    mixed = guid[3::-1] + guid[5:3:-1] + guid[7:5:-1] + guid[8:]
    return format_uuid(mixed.hex())


def _read_number(data: bytes, offset: int, length: int) -> int:
    return int.from_bytes(data[offset : offset + length], "little")
