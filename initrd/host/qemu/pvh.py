"""Start an x86 kernel by its PVH entry point, from the ELF file inside its image.

A bzImage holds a compressed ELF file, vmlinux. QEMU can load a vmlinux with a PVH note and start it
there. The guest then neither decompresses its kernel, which takes an emulated processor longer than
much of the boot, nor runs the real-mode code before that; and it needs no more than the small
firmware qboot. A kernel that decompresses itself also moves itself to a random address; a kernel
that is started by its PVH entry point does not. Extracted kernels are cached. Where an image is in
any way unusual, nothing is extracted, and QEMU boots the image.

An image may come from a root that nobody has to trust: what is read of it is limited.

Sources: the kernel's Documentation/arch/x86/boot.rst (`payload_offset`) and
include/xen/interface/elfnote.h (`XEN_ELFNOTE_PHYS32_ENTRY`), elf(5).
"""

import os
import struct

from initrd.host.system.cached import KERNELS, Cache, CacheEntry, CacheFolder, open_cached
from initrd.host.system.files import OpenFile, name_open_file
from initrd.host.system.hosterror import HostError
from initrd.host.system.rootfile import KERNEL
from initrd.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from initrd.host.qemu.argv import Hardware

CACHED_KERNELS = 2  # most kernels in the cache; each takes some 50 MB
UNCACHED_NAME = "vmlinux"  # shown as the path of a kernel that is not in the cache
FIRMWARE_DIRECTORIES = ("/usr/share/qemu", "/usr/share/qemu-kvm")
_MAGIC_OFFSET, _MAGIC = 0x202, b"HdrS"  # the setup header of an x86 image
_PROTOCOL = 0x208  # the first version of the boot protocol with payload_offset
_ELF64_LITTLE, _X86_64 = b"\x7fELF\x02\x01", 62
_PT_NOTE, _ENTRY_NOTE = 4, 18
_PROGRAM_HEADER_SIZE = 56  # bytes
_MAX_NOTES = 1000  # of a kernel, which has some 20
_OWNER = b"Xen\0"
_LZ4_LEGACY = b"\x02\x21\x4c\x18"
_HEAD_SIZE = 1 << 16  # bytes; the payload of an image begins before
_SIZE_FIELD = 4  # bytes at the end of the payload: its size when decompressed


class PvhKernel(Record):
    """The kernel and firmware that QEMU gets in place of the image and of its default firmware."""

    file: OpenFile  # the uncompressed kernel
    firmware: str = ""  # path of a file; empty: QEMU's default


def find_pvh_kernel(
    hardware: "Hardware", kernel: OpenFile, qemu: str, cache: Cache, *, kaslr: bool = False
) -> PvhKernel | None:
    """Return the uncompressed kernel of the open image `kernel`; None: QEMU boots the image.

    Only on the default machine type of an architecture that has a small firmware. With KVM, a
    kernel compressed by LZ4 is decompressed so fast that nothing would be gained. `kaslr`: the
    kernel is to choose a random address, which only the image does.
    """
    if kaslr or not hardware.arch.firmware or hardware.machine:
        return None
    if hardware.accelerator == "kvm" and _has_lz4_payload(kernel):
        return None
    elf = open_vmlinux(kernel, cache)
    if elf < 0:
        return None
    file = name_open_file(elf, UNCACHED_NAME)
    return PvhKernel(file, find_firmware(hardware.arch.firmware, qemu))


def _has_lz4_payload(kernel: OpenFile) -> bool:
    try:
        head = os.pread(kernel.descriptor, _HEAD_SIZE, 0)
    except OSError:  # QEMU reports the error when it reads the image
        return False
    return _payload(head).startswith(_LZ4_LEGACY)


def find_firmware(name: str, qemu: str) -> str:
    """Return the path of a firmware file that is installed with the program `qemu`; empty for none.

    Looked for in share/qemu beside the program's directory, then in FIRMWARE_DIRECTORIES.
    """
    prefix = os.path.dirname(os.path.dirname(os.path.realpath(qemu)))
    for folder in (os.path.join(prefix, "share/qemu"), *FIRMWARE_DIRECTORIES):
        path = os.path.join(folder, name)
        if os.path.isfile(path):
            return path
    return ""


def open_vmlinux(image: OpenFile, cache: Cache) -> int:
    """Return a descriptor of the ELF file inside an open image; -1 for none.

    The cache also holds that there is none: as an empty file.
    """
    folder = CacheFolder(cache, KERNELS, CACHED_KERNELS)
    descriptor = open_cached(
        folder,
        image.path,
        lambda: CacheEntry(read_vmlinux(image.descriptor), (image.path,)),
    )
    if os.fstat(descriptor).st_size:
        return descriptor
    os.close(descriptor)
    return -1


def read_vmlinux(image: int) -> bytes:
    """Return the ELF file inside an image; empty for none, or one that is unreadable or huge."""
    try:
        size = os.fstat(image).st_size
        return extract_vmlinux(os.pread(image, size, 0)) if size <= KERNEL.size else b""
    except OSError:  # QEMU reports the error when it reads the image
        return b""


def extract_vmlinux(image: bytes) -> bytes:
    """Return the ELF file inside a kernel image; empty when there is none with a PVH note."""
    content = _decompress(_payload(image))
    return content if has_pvh_entry(content) else b""


def has_pvh_entry(elf: bytes) -> bool:
    """Return whether this is a 64-bit x86 ELF file with a PVH note."""
    try:
        if not elf.startswith(_ELF64_LITTLE) or struct.unpack_from("<H", elf, 18)[0] != _X86_64:
            return False
        return (_OWNER, _ENTRY_NOTE) in set(_notes(elf))
    except struct.error:  # the file is truncated
        return False


def _payload(image: bytes) -> bytes:
    """Return the compressed kernel in an x86 image; empty for any other file."""
    if len(image) < 0x250 or image[_MAGIC_OFFSET : _MAGIC_OFFSET + len(_MAGIC)] != _MAGIC:
        return b""
    (protocol,) = struct.unpack_from("<H", image, 0x206)
    if protocol < _PROTOCOL:
        return b""
    offset, size = struct.unpack_from("<II", image, 0x248)
    start = ((image[0x1F1] or 4) + 1) * 512 + offset
    return image[start : start + size]


def _decompress(payload: bytes) -> bytes:
    """Return the decompressed payload; empty where that is not possible."""
    from initrd.host.image import compress  # noqa: PLC0415 - once for a kernel

    if payload.startswith(_LZ4_LEGACY):  # the format has no end mark: zeros end it
        payload = payload[:-_SIZE_FIELD] + bytes(_SIZE_FIELD)
    try:
        return compress.decompress(payload, KERNEL.size)[0]
    except (compress.CompressError, HostError):  # unknown method, or its library is not installed
        return b""


def _notes(elf: bytes) -> "Iterator[tuple[bytes, int]]":
    """Yield owner and type of the first _MAX_NOTES notes; of a long owner only the beginning.

    Raises struct.error for a truncated file.
    """
    left = _MAX_NOTES
    for kind, start, length in _segments(elf):
        offset = start
        while kind == _PT_NOTE and offset < start + length and left:
            name_size, data_size, note_type = _unpack("<III", elf, offset)
            yield elf[offset + 12 : offset + 12 + min(name_size, len(_OWNER))], note_type
            offset += 12 + (name_size + 3) // 4 * 4 + (data_size + 3) // 4 * 4
            left -= 1


def _segments(elf: bytes) -> "Iterator[tuple[int, int, int]]":
    """Yield type, offset and size of each segment. Raises struct.error for a truncated file."""
    (headers,) = _unpack("<Q", elf, 32)
    header_size, count = _unpack("<HH", elf, 54)
    for number in range(count if header_size == _PROGRAM_HEADER_SIZE else 0):
        header = _unpack("<IIQQQQ", elf, headers + header_size * number)
        yield header[0], header[2], header[5]


def _unpack(form: str, data: bytes, offset: int) -> "tuple[int, ...]":
    """Return the numbers at `offset`. Raises struct.error where they are not in the data."""
    if offset > len(data):  # it may have more than 63 bits, which unpack_from() does not take
        raise struct.error("the offset is not in the file")
    return struct.unpack_from(form, data, offset)
