"""The kernel inside a compressed x86 image, as an ELF file that QEMU can start directly.

QEMU enters such a file by its PVH note. The guest then neither decompresses its kernel, which takes
an emulated processor longer than much of the boot, nor runs the real-mode code before that. What is
found is kept; whatever is odd about an image, the image itself is what boots.

Sources: the kernel's Documentation/arch/x86/boot.rst (`payload_offset`) and
include/xen/interface/elfnote.h (`XEN_ELFNOTE_PHYS32_ENTRY`), elf(5).
"""

import os
import struct

from initrd.errors import HostError
from initrd.host.system.files import CacheEntry, OpenFile, name_open_file, open_cached
from initrd.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from initrd.host.qemu.argv import Hardware

KERNELS_KEPT = 2  # kernels; each takes some 50 MB
_PROTOCOL = 0x208  # the first that tells where the payload is
_ELF64_LITTLE, _X86_64 = b"\x7fELF\x02\x01", 62
_PT_NOTE, _ENTRY_NOTE = 4, 18
_LZ4_LEGACY = b"\x02\x21\x4c\x18"
_SIZE_FIELD = 4  # bytes behind the payload: its size when decompressed
NAMELESS = "vmlinux"  # what to call a kernel that the cache does not keep
FIRMWARE_PLACES = ("/usr/share/qemu", "/usr/share/qemu-kvm")


def open_vmlinux(image: str, cache: str) -> int:
    """Return a descriptor of the ELF file inside `image`; -1 when there is none that would boot."""
    folder = os.path.join(cache, "kernels")
    found = open_cached(
        folder, image, lambda: CacheEntry(extract_from(image), (image,)), kept=KERNELS_KEPT
    )
    if os.fstat(found).st_size:
        return found
    os.close(found)
    return -1


def extract_from(path: str) -> bytes:
    """Return what `extract` finds in the file at `path`."""
    try:
        with open(path, "rb") as file:
            return extract_vmlinux(file.read())
    except OSError:  # QEMU will tell
        return b""


def extract_vmlinux(image: bytes) -> bytes:
    """Return the ELF file inside a kernel image; empty when there is none with a PVH entry."""
    content = _decompressed(_payload(image))
    return content if has_pvh_entry(content) else b""


def has_pvh_entry(elf: bytes) -> bool:
    """Tell whether QEMU can start an ELF file directly."""
    try:
        if not elf.startswith(_ELF64_LITTLE) or struct.unpack_from("<H", elf, 18)[0] != _X86_64:
            return False
        return ("Xen", _ENTRY_NOTE) in set(_notes(elf))
    except struct.error:  # it is cut short
        return False


def _payload(image: bytes) -> bytes:
    """Return the compressed kernel in an x86 image; empty for what is none."""
    if len(image) < 0x250 or image[0x202:0x206] != b"HdrS":
        return b""
    (protocol,) = struct.unpack_from("<H", image, 0x206)
    if protocol < _PROTOCOL:
        return b""
    offset, size = struct.unpack_from("<II", image, 0x248)
    start = ((image[0x1F1] or 4) + 1) * 512 + offset
    return image[start : start + size]


def _decompressed(payload: bytes) -> bytes:
    from initrd.host.image import compress  # noqa: PLC0415 - once for a kernel

    if payload.startswith(_LZ4_LEGACY):  # it has no end of its own
        payload = payload[:-_SIZE_FIELD] + bytes(_SIZE_FIELD)
    try:
        return compress.decompress(payload)[0]
    except (compress.CompressError, HostError):  # a method that we do not know, no library
        return b""


def _notes(elf: bytes) -> "Iterator[tuple[str, int]]":
    """Yield owner and type of each note."""
    (headers,) = struct.unpack_from("<Q", elf, 32)
    size, count = struct.unpack_from("<HH", elf, 54)
    for header in range(headers, headers + size * count, size or 1):
        kind, _, at, _, _, length = struct.unpack_from("<IIQQQQ", elf, header)
        end = at + length
        while kind == _PT_NOTE and at < end:
            name_size, data_size, note = struct.unpack_from("<III", elf, at)
            yield elf[at + 12 : at + 12 + name_size].rstrip(b"\0").decode("latin-1"), note
            at += 12 + (name_size + 3) // 4 * 4 + (data_size + 3) // 4 * 4


class PvhKernel(Record):
    """What QEMU starts instead of the kernel's image, and with which firmware."""

    file: OpenFile  # the uncompressed kernel
    firmware: str = ""  # path of a file; empty: QEMU's default


def find_pvh_kernel(hardware: "Hardware", kernel: str, qemu: str, cache: str) -> PvhKernel | None:
    """Return how to start the image `kernel` by its PVH entry; None: QEMU starts the image."""
    if hardware.accelerator != "tcg" or not hardware.arch.firmware or hardware.machine:
        return None
    elf = open_vmlinux(kernel, cache)
    if elf < 0:
        return None
    file = name_open_file(elf, NAMELESS)
    return PvhKernel(file, find_firmware(hardware.arch.firmware, qemu))


def find_firmware(name: str, qemu: str) -> str:
    """Return the path of a firmware that comes with the program `qemu`; empty: it is not there."""
    top = os.path.dirname(os.path.dirname(os.path.realpath(qemu)))
    for folder in (os.path.join(top, "share/qemu"), *FIRMWARE_PLACES):
        path = os.path.join(folder, name)
        if os.path.isfile(path):
            return path
    return ""
