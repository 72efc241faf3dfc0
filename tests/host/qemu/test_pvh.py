"""The kernel inside an image: found where QEMU can start it, left alone where anything is odd."""

import gzip
import os
import struct
from pathlib import Path

import pytest

from initrd.host.qemu.arch import find_arch
from initrd.host.qemu.argv import Hardware
from initrd.host.qemu.pvh import (
    extract_vmlinux,
    find_pvh_kernel,
    has_pvh_entry,
    open_vmlinux,
)


def note(owner: bytes, kind: int, data: bytes) -> bytes:
    name = owner + b"\0"
    head = struct.pack("<III", len(name), len(data), kind)
    return head + name + bytes(-len(name) % 4) + data + bytes(-len(data) % 4)


def elf(notes: bytes, machine: int = 62, word: int = 2) -> bytes:
    """An ELF file with one program header, PT_NOTE."""
    start = 64 + 56
    ident = b"\x7fELF" + bytes([word, 1, 1]) + bytes(9)
    head = ident + struct.pack("<HHIQQQIHHHHHH", 2, machine, 1, 0, 64, 0, 0, 64, 56, 1, 0, 0, 0)
    header = struct.pack("<IIQQQQQQ", 4, 4, start, 0, 0, len(notes), len(notes), 4)
    return head + header + notes


def bzimage(payload: bytes, protocol: int = 0x20F, sectors: int = 1, offset: int = 16) -> bytes:
    image = bytearray((sectors + 1) * 512 + offset)
    image[0x1F1] = sectors
    image[0x202:0x206] = b"HdrS"
    struct.pack_into("<H", image, 0x206, protocol)
    struct.pack_into("<II", image, 0x248, offset, len(payload))
    return bytes(image) + payload


ENTRY = note(b"Xen", 18, bytes(8))
KERNEL = elf(note(b"Xen", 6, b"linux\0") + ENTRY)
PACKED = gzip.compress(KERNEL) + struct.pack("<I", len(KERNEL))


def test_the_kernel_is_found_behind_the_setup_code() -> None:
    assert extract_vmlinux(bzimage(PACKED)) == KERNEL
    assert extract_vmlinux(bzimage(PACKED, sectors=7, offset=400)) == KERNEL


@pytest.mark.parametrize(
    "image",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(bytes(4096), id="zeros"),
        pytest.param(KERNEL, id="not a bzImage"),
        pytest.param(bzimage(PACKED, protocol=0x207), id="a protocol that is too old"),
        pytest.param(bzimage(PACKED)[:-40], id="cut short"),
        pytest.param(bzimage(b"\x5d\0\0" + PACKED), id="another compression"),
        pytest.param(bzimage(b"\x02\x21\x4c\x18\xff\xff\xff\xff\0\0\0\0"), id="damaged lz4"),
        pytest.param(bzimage(gzip.compress(elf(b""))), id="no note"),
        pytest.param(bzimage(gzip.compress(b"no ELF")), id="no ELF file"),
    ],
)
def test_what_is_odd_is_left_to_qemu(image: bytes) -> None:
    assert extract_vmlinux(image) == b""


@pytest.mark.parametrize(
    ("file", "good"),
    [
        pytest.param(KERNEL, True, id="good"),
        pytest.param(elf(note(b"GNU", 18, bytes(8))), False, id="a note of somebody else"),
        pytest.param(elf(ENTRY, machine=183), False, id="another machine"),
        pytest.param(elf(ENTRY, word=1), False, id="32 bits"),
        pytest.param(KERNEL[:70], False, id="no headers"),
        pytest.param(KERNEL[:130], False, id="half a note"),
        pytest.param(b"", False, id="nothing"),
    ],
)
def test_qemu_needs_the_entry_note(file: bytes, *, good: bool) -> None:
    assert has_pvh_entry(file) == good


def test_a_kernel_is_kept_and_the_answer_no_too(tmp_path: Path) -> None:
    image, cache = tmp_path / "vmlinuz", tmp_path / "cache"
    for content, size in ((bzimage(PACKED), len(KERNEL)), (b"odd", 0)):
        image.write_bytes(content)
        os.utime(image, (1, 1))
        for _ in range(2):
            descriptor = open_vmlinux(str(image), str(cache))
            assert (os.fstat(descriptor).st_size if descriptor >= 0 else 0) == size
            if descriptor >= 0:
                os.close(descriptor)


HARDWARE = Hardware(find_arch("x86_64"), "tcg", memory=1 << 30, cpus=1)


@pytest.mark.parametrize(
    "hardware",
    [
        pytest.param(HARDWARE.replace(accelerator="kvm"), id="KVM"),
        pytest.param(HARDWARE.replace(machine="pc"), id="a machine asked for"),
        pytest.param(HARDWARE.replace(arch=find_arch("aarch64")), id="another architecture"),
    ],
)
def test_elsewhere_the_image_is_what_boots(hardware: Hardware, tmp_path: Path) -> None:
    image = tmp_path / "vmlinuz"
    image.write_bytes(bzimage(PACKED))
    assert find_pvh_kernel(hardware, str(image), "/usr/bin/qemu", str(tmp_path)) is None


def test_the_firmware_is_looked_for_beside_qemu(tmp_path: Path) -> None:
    image = tmp_path / "vmlinuz"
    image.write_bytes(bzimage(PACKED))
    (tmp_path / "share/qemu").mkdir(parents=True)
    (tmp_path / "share/qemu/qboot.rom").touch()
    found = find_pvh_kernel(HARDWARE, str(image), f"{tmp_path}/bin/qemu", str(tmp_path / "cache"))
    assert found is not None
    assert found.firmware == f"{tmp_path}/share/qemu/qboot.rom"
    os.close(found.file.descriptor)
