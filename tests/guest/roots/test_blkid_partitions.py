"""PARTUUIDs read from GPT and MBR partition tables."""

import pytest

from initrd.guest.roots.blkid import partition_uuid
from tests.fake_roots_kernel import device

GUID = bytes.fromhex("8e84bb8c 4344 6741 b226 f034335c4dca".replace(" ", ""))
PARTUUID = "8cbb848e-4443-4167-b226-f034335c4dca"


def gpt(sector: int = 512, *, table: int = 2, count: int = 4, size: int = 128) -> bytes:
    """Return the contents of a disk with a GPT whose third partition has the GUID `GUID`."""
    header = b"EFI PART".ljust(72, b"\0") + table.to_bytes(8, "little")
    header += count.to_bytes(4, "little") + size.to_bytes(4, "little")
    third = (2 * sector + 2 * 128 + 16, GUID)
    return device((510, b"\x55\xaa"), (sector, header), third, size=8 * sector)


def mbr(signature: bytes = b"\x78\x56\x34\x12") -> bytes:
    return device((440, signature), (510, b"\x55\xaa"), size=4096)


@pytest.mark.parametrize(
    ("disk", "number", "sector", "partuuid"),
    [
        pytest.param(gpt(), 3, 512, PARTUUID, id="GPT"),
        pytest.param(gpt(4096), 3, 4096, PARTUUID, id="GPT of 4096-byte sectors"),
        pytest.param(gpt(), 1, 512, "", id="GPT without this partition"),
        pytest.param(gpt(), 9, 512, "", id="GPT with fewer partitions"),
        pytest.param(gpt(), 0, 512, "", id="partition number 0"),
        pytest.param(mbr(), 1, 512, "12345678-01", id="MBR"),
        pytest.param(mbr(), 12, 512, "12345678-0c", id="MBR logical"),
        pytest.param(bytes(4096), 1, 512, "", id="no table"),
        pytest.param(b"", 1, 512, "", id="no disk"),
        pytest.param(gpt(table=1 << 60), 3, 512, "", id="GPT with a table beyond the last sector"),
        pytest.param(gpt(size=0xFFFFFFFF), 3, 512, "", id="GPT with entries of 4 GiB"),
    ],
)
def test_partuuid_is_read_from_the_partition_table(
    disk: bytes, number: int, sector: int, partuuid: str
) -> None:
    def read_at(offset: int, length: int) -> bytes:
        assert length <= 4096
        return disk[offset : offset + length]

    assert partition_uuid(number, sector, read_at) == partuuid
