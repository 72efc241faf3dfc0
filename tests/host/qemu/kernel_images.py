"""Kernel images for tests: a bzImage around an ELF file that holds nothing but notes."""

import gzip
import struct


def note(owner: bytes, kind: int, data: bytes) -> bytes:
    name = owner + b"\0"
    head = struct.pack("<III", len(name), len(data), kind)
    return head + name + bytes(-len(name) % 4) + data + bytes(-len(data) % 4)


def elf(notes: bytes, machine: int = 62, elf_class: int = 2) -> bytes:
    """Return an ELF file with one program header, PT_NOTE."""
    start = 64 + 56
    ident = b"\x7fELF" + bytes([elf_class, 1, 1]) + bytes(9)
    head = ident + struct.pack("<HHIQQQIHHHHHH", 2, machine, 1, 0, 64, 0, 0, 64, 56, 1, 0, 0, 0)
    header = struct.pack("<IIQQQQQQ", 4, 4, start, 0, 0, len(notes), len(notes), 4)
    return head + header + notes


def bzimage(payload: bytes, protocol: int = 0x20F, sectors: int = 1, offset: int = 16) -> bytes:
    image = bytearray((sectors + 1) * 512 + offset)
    image[0x1F1] = sectors
    image[0x202:0x206] = b"HdrS"
    struct.pack_into("<H", image, 0x206, protocol)
    image[0x236] = 1  # XLF_KERNEL_64
    struct.pack_into("<II", image, 0x248, offset, len(payload))
    return bytes(image) + payload


ENTRY = note(b"Xen", 18, bytes(8))
KERNEL = elf(note(b"Xen", 6, b"linux\0") + ENTRY)
PACKED = gzip.compress(KERNEL) + struct.pack("<I", len(KERNEL))
