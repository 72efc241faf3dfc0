"""Extraction of the ELF file in a kernel image, and when QEMU starts that by its PVH entry."""

import gzip
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from initrd.host.qemu import pvh
from initrd.host.qemu.arch import find_arch
from initrd.host.qemu.argv import Hardware
from initrd.host.qemu.pvh import extract_vmlinux, find_pvh_kernel, has_pvh_entry, open_vmlinux
from initrd.host.system.cached import Cache
from initrd.host.system.files import OpenFile
from tests.host.hostile_roots import elf_with_headers, gzip_bomb, run_with_memory
from tests.host.qemu.kernel_images import ENTRY, KERNEL, PACKED, bzimage, elf, note


def test_elf_file_is_extracted_from_behind_the_setup_code() -> None:
    assert extract_vmlinux(bzimage(PACKED)) == KERNEL
    assert extract_vmlinux(bzimage(PACKED, sectors=7, offset=400)) == KERNEL


@pytest.mark.parametrize(
    "image",
    [
        pytest.param(b"", id="empty file"),
        pytest.param(bytes(4096), id="zeros"),
        pytest.param(KERNEL, id="not a bzImage"),
        pytest.param(bzimage(PACKED, protocol=0x207), id="boot protocol without payload_offset"),
        pytest.param(bzimage(PACKED)[:-40], id="truncated"),
        pytest.param(bzimage(b"\x5d\0\0" + PACKED), id="unknown compression"),
        pytest.param(bzimage(b"\x02\x21\x4c\x18\xff\xff\xff\xff\0\0\0\0"), id="damaged lz4"),
        pytest.param(bzimage(gzip.compress(elf(b""))), id="no PVH note"),
        pytest.param(bzimage(gzip.compress(b"no ELF")), id="payload is no ELF file"),
    ],
)
def test_unusual_image_is_not_extracted(image: bytes) -> None:
    assert extract_vmlinux(image) == b""


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        pytest.param(KERNEL, True, id="PVH note"),
        pytest.param(elf(note(b"GNU", 18, bytes(8))), False, id="note of another owner"),
        pytest.param(elf(ENTRY, machine=183), False, id="another architecture than x86"),
        pytest.param(elf(ENTRY, elf_class=1), False, id="32 bits"),
        pytest.param(KERNEL[:70], False, id="truncated before the headers"),
        pytest.param(KERNEL[:130], False, id="truncated in the note"),
        pytest.param(b"", False, id="empty file"),
    ],
)
def test_pvh_entry_takes_a_complete_64_bit_elf_file_with_the_note(
    content: bytes, *, expected: bool
) -> None:
    assert has_pvh_entry(content) == expected


@pytest.mark.parametrize("offset", [1 << 63, (1 << 64) - 1, 1 << 40])
def test_headers_or_notes_outside_the_file_are_no_entry(offset: int) -> None:
    headers = bytearray(KERNEL)
    struct.pack_into("<Q", headers, 32, offset)
    notes = bytearray(KERNEL)
    struct.pack_into("<Q", notes, 64 + 8, offset)
    assert not has_pvh_entry(bytes(headers))
    assert not has_pvh_entry(bytes(notes))


def test_program_headers_of_another_size_are_not_read() -> None:
    for size in (0, 1, 55, 65535):
        image = bytearray(KERNEL)
        struct.pack_into("<H", image, 54, size)
        assert not has_pvh_entry(bytes(image))


def test_many_notes_over_the_same_bytes_are_read_up_to_a_limit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    image = elf_with_headers(65535, 4, 64, 4 << 20) + bytes(8 << 20)
    offsets: list[int] = []
    unpack = pvh._unpack

    def count(form: str, data: bytes, offset: int) -> tuple[int, ...]:
        offsets.extend([offset] if form == "<III" else [])
        return unpack(form, data, offset)

    monkeypatch.setattr(pvh, "_unpack", count)
    assert not has_pvh_entry(image)
    assert len(offsets) == 1000


def test_kernel_that_unpacks_to_gigabytes_is_not_extracted(tmp_path: Path) -> None:
    path = tmp_path / "vmlinuz"
    path.write_bytes(bzimage(gzip_bomb(2 << 30)))
    program = """
        import sys
        from initrd.host.qemu.pvh import read_vmlinux
        print(len(read_vmlinux(open(sys.argv[1]).fileno())))
    """
    assert run_with_memory(1 << 30, program, str(path)) == "0\n"


def test_huge_image_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "vmlinuz"
    path.write_bytes(bzimage(PACKED))
    os.truncate(path, 1 << 40)
    with path.open("rb") as file:
        assert pvh.read_vmlinux(file.fileno()) == b""


def test_extracted_kernel_is_cached_and_so_is_that_there_is_none(
    tmp_path: Path, cache: Cache
) -> None:
    for content, size in ((bzimage(PACKED), len(KERNEL)), (b"no kernel", 0)):
        for _ in range(2):
            with open_image(tmp_path, content) as image:
                descriptor = open_vmlinux(image, cache)
            assert (os.fstat(descriptor).st_size if descriptor >= 0 else 0) == size
            if descriptor >= 0:
                os.close(descriptor)


def pack_lz4(content: bytes) -> bytes:
    """Return a payload in the legacy format of LZ4: one block of literals, and the size."""
    more, last = divmod(len(content) - 15, 255)
    block = b"\xf0" + b"\xff" * more + bytes([last]) + content
    size = len(block).to_bytes(4, "little")
    return b"\x02\x21\x4c\x18" + size + block + len(content).to_bytes(4, "little")


@contextmanager
def open_image(folder: Path, content: bytes) -> Iterator[OpenFile]:
    path = folder / "vmlinuz"
    path.write_bytes(content)
    with path.open("rb") as file:
        yield OpenFile(str(path), file.fileno())


HARDWARE = Hardware(find_arch("x86_64"), "tcg", memory=1 << 30, cpus=1)


KVM = HARDWARE.replace(accelerator="kvm")


@pytest.fixture
def image(tmp_path: Path) -> Iterator[OpenFile]:
    """An open image with a PVH entry point."""
    with open_image(tmp_path, bzimage(PACKED)) as opened:
        yield opened


@pytest.mark.parametrize(
    ("hardware", "kaslr"),
    [
        pytest.param(HARDWARE, True, id="TCG, random address"),
        pytest.param(KVM, True, id="KVM, random address"),
        pytest.param(HARDWARE.replace(machine="pc"), False, id="another machine type"),
        pytest.param(HARDWARE.replace(arch=find_arch("aarch64")), False, id="another architecture"),
    ],
)
def test_image_is_not_extracted_for_another_machine_or_a_random_address(
    hardware: Hardware, image: OpenFile, cache: Cache, *, kaslr: bool
) -> None:
    assert find_pvh_kernel(hardware, image, "/usr/bin/qemu", cache, kaslr=kaslr) is None
    assert not os.listdir(cache.path)


@pytest.mark.parametrize(
    "hardware", [pytest.param(HARDWARE, id="TCG"), pytest.param(KVM, id="KVM")]
)
def test_image_is_extracted_and_firmware_found_in_the_prefix_of_qemu(
    hardware: Hardware, image: OpenFile, tmp_path: Path, cache: Cache
) -> None:
    (tmp_path / "share/qemu").mkdir(parents=True)
    (tmp_path / "share/qemu/qboot.rom").touch()
    found = find_pvh_kernel(hardware, image, f"{tmp_path}/bin/qemu", cache)
    assert found is not None
    assert os.pread(found.file.descriptor, len(KERNEL) + 1, 0) == KERNEL
    assert found.firmware == f"{tmp_path}/share/qemu/qboot.rom"
    os.close(found.file.descriptor)


@pytest.mark.parametrize(
    ("hardware", "is_extracted"),
    [pytest.param(HARDWARE, True, id="TCG"), pytest.param(KVM, False, id="KVM")],
)
def test_image_compressed_by_lz4_is_extracted_without_kvm_only(
    hardware: Hardware, tmp_path: Path, cache: Cache, *, is_extracted: bool
) -> None:
    with open_image(tmp_path, bzimage(pack_lz4(KERNEL))) as image:
        found = find_pvh_kernel(hardware, image, "/usr/bin/qemu", cache)
    assert (found is not None) == is_extracted
