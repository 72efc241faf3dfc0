"""Recognition of file systems from the first bytes of a device."""

import random

import pytest

from initrd.guest.roots.blkid import LENGTH, Superblock, probe
from tests.fake_roots_kernel import UUID, UUID_BYTES, device, ext, squashfs


def iso9660(label: bytes, joliet: str = "") -> bytes:
    """Return a volume with a label of ISO 9660, and one of Joliet."""
    primary = [(32768, b"\x01CD001"), (32808, label.ljust(32))]
    other = [(34816, b"\x02CD001"), (34856, joliet.ljust(16).encode("utf-16-be")), (34904, b"%/E")]
    return device(*primary, *(other if joliet else ()), (36864, b"\xffCD001"))


FORMATS = {
    "ext2": (ext(compat=0, incompat=2), Superblock("ext2", UUID)),
    "ext3": (ext(incompat=2 | 4, label=b"old"), Superblock("ext3", UUID, "old")),
    "ext4": (ext(label=b"sixteen bytes ok"), Superblock("ext4", UUID, "sixteen bytes ok")),
    "ext4 without a journal": (ext(compat=0), Superblock("ext4", UUID)),
    "ext4 by a read-only feature": (ext(incompat=2, ro_compat=0x400), Superblock("ext4", UUID)),
    "journal of another device": (ext(incompat=8), Superblock("jbd", UUID)),
    "squashfs": (squashfs(), Superblock("squashfs")),
    "erofs": (
        device((1024, b"\xe2\xe1\xf5\xe0"), (1072, UUID_BYTES), (1088, b"label\0rest")),
        Superblock("erofs", UUID, "label"),
    ),
    "erofs without UUID": (device((1024, b"\xe2\xe1\xf5\xe0")), Superblock("erofs")),
    "xfs": (
        device((0, b"XFSB"), (32, UUID_BYTES), (108, b"twelve bytes")),
        Superblock("xfs", UUID, "twelve bytes"),
    ),
    "btrfs": (
        device((65600, b"_BHRfS_M"), (65568, UUID_BYTES), (65835, b"pool")),
        Superblock("btrfs", UUID, "pool"),
    ),
    "f2fs": (
        device((1024, b"\x10\x20\xf5\xf2"), (1132, UUID_BYTES), (1148, "flé".encode("utf-16-le"))),
        Superblock("f2fs", UUID, "flé"),
    ),
    "f2fs with a letter beyond 16 bits, and half of one": (
        device((1024, b"\x10\x20\xf5\xf2"), (1148, "😀".encode("utf-16-le") + b"\x3d\xd8a\0")),
        Superblock("f2fs", "", "😀\ufffda"),
    ),
    "iso9660": (
        device(
            (32769, b"CD001"),
            (32808, b"LIVE CD" + 25 * b" "),
            (33581, b"2024020312345600\0"),
            (33598, b"0000000000000000\0"),
        ),
        Superblock("iso9660", "2024-02-03-12-34-56-00", "LIVE CD"),
    ),
    "iso9660 with capitals": (iso9660(b"LIVE_CD"), Superblock("iso9660", "", "LIVE_CD")),
    "Joliet": (iso9660(b"LIVE_CD", "Live cd"), Superblock("iso9660", "", "Live cd")),
    "Joliet, a long label": (
        iso9660(b"MY__L_ONG_NAME_OF_20", "My él-ong name o"),
        Superblock("iso9660", "", "My él-ong name oF_20"),
    ),
    "Joliet, another label": (iso9660(b"CDROM", "Debian"), Superblock("iso9660", "", "Debian")),
    "iso9660 without dates": (device((32769, b"CD001")), Superblock("iso9660")),
    "swap": (
        device((4086, b"SWAPSPACE2"), (1036, UUID_BYTES), (1052, b"swap")),
        Superblock("swap", UUID, "swap"),
    ),
    "LUKS": (
        device((0, b"LUKS\xba\xbe\0\2"), (168, UUID.encode())),
        Superblock("crypto_LUKS", UUID),
    ),
    "FAT32": (
        device(
            (510, b"\x55\xaa"), (0x52, b"FAT32   "), (0x43, b"\x01\x02\x03\x04"), (0x47, b"EFI")
        ),
        Superblock("vfat", "0403-0201", "EFI"),
    ),
    "FAT16 without a label": (
        device((510, b"\x55\xaa"), (0x36, b"FAT16   "), (0x2B, b"NO NAME    ")),
        Superblock("vfat", "0000-0000"),
    ),
}


@pytest.mark.parametrize(("data", "superblock"), FORMATS.values(), ids=FORMATS)
def test_probe_recognizes_each_known_format(data: bytes, superblock: Superblock) -> None:
    assert probe(data[:LENGTH]) == superblock


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"", id="no bytes"),
        pytest.param(bytes(LENGTH), id="zeros"),
        pytest.param(b"\xff" * LENGTH, id="ones"),
        pytest.param(device((510, b"\x55\xaa")), id="a partition table"),
        pytest.param(random.Random(1).randbytes(LENGTH), id="noise"),
    ],
)
def test_probe_of_unknown_contents_returns_none(data: bytes) -> None:
    assert probe(data) is None


@pytest.mark.parametrize(("data", "superblock"), FORMATS.values(), ids=FORMATS)
def test_probe_of_a_truncated_device_raises_no_error(data: bytes, superblock: Superblock) -> None:
    for length in (1, 511, 1025, 1100, 4095, 32770, 65601):
        found = probe(data[:length])
        assert found is None or found.fstype in (superblock.fstype, "ext2")


def test_probe_prefers_a_signature_at_the_first_byte_to_an_older_superblock() -> None:
    assert probe(squashfs()[:512] + ext()[512:]) == Superblock("squashfs")


def test_label_that_is_not_utf8_keeps_its_bytes() -> None:
    found = probe(ext(label=b"caf\xe9"))
    assert found and found.label.encode(errors="surrogateescape") == b"caf\xe9"


def test_feature_flags_tell_ext2_ext3_and_ext4_apart() -> None:
    bits = [1 << number for number in range(32)]
    found = probe(ext(compat=~4 & 0xFFFFFFFF, incompat=0, ro_compat=0))  # all but has_journal
    assert found and found.fstype == "ext2"
    for bit in bits:
        by_incompat = probe(ext(compat=4, incompat=bit, ro_compat=0))
        by_ro_compat = probe(ext(compat=4, incompat=0, ro_compat=bit))
        assert by_incompat and by_ro_compat
        others = {8: "jbd", 2: "ext3", 4: "ext3", 0x10: "ext3"}
        assert by_incompat.fstype == others.get(bit, "ext4"), hex(bit)
        assert by_ro_compat.fstype == ("ext3" if bit in (1, 2, 4) else "ext4"), hex(bit)


def test_superblock_text_has_the_syntax_of_the_kernel_command_line() -> None:
    assert str(Superblock("ext4", UUID, "root")) == f"ext4 UUID={UUID} LABEL=root"
    assert str(Superblock("squashfs")) == "squashfs"
