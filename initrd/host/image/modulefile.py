"""Read the file of a kernel module: its content, decompressed, and its section .modinfo.

The file may be anybody's, so what is read of it is limited.

Sources: the kernel's include/linux/module.h (MODULE_INFO), elf(5).
"""

import os
import struct
from functools import partial

from initrd.errors import reason
from initrd.host.system.hosterror import HostError
from initrd.host.system.rootfile import MODULE, open_file, read_file

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    Modinfo = dict[str, list[str]]

SUFFIXES = (".ko", ".ko.gz", ".ko.xz", ".ko.zst")  # of the files of modules
_COMPRESSED = (".gz", ".xz", ".zst")
_ELF, _ELF64, _LITTLE = b"\x7fELF", b"\x7fELF\x02", b"\x01"
_ELF_HEADER_SIZE = 64  # bytes
_MAX_SECTION = 4 << 20  # bytes of a section that is read; 65535 section headers have this size


def read_module(path: str) -> bytes:
    """Return the module in the file `path`, decompressed. Raises HostError.

    `path` has no symbolic links: ModuleTree.path returns such a path.
    """
    try:
        content = read_file(path, MODULE)
    except OSError as error:
        raise HostError(f"cannot read the module {path}", reason(error)) from error
    if path.endswith(_COMPRESSED):
        content = _decompress(path, content)
    if not content.startswith(_ELF):
        raise HostError(f"cannot use the module {path}", "it is no ELF file")
    return content


def _decompress(path: str, content: bytes) -> bytes:
    from initrd.host.image import compress  # noqa: PLC0415 - not all kernels' modules are compressed

    try:
        module, _ = compress.decompress(content, MODULE.size)
    except compress.CompressError as error:
        raise HostError(f"cannot decompress the module {path}", str(error)) from error
    return module


def parse_modinfo(section: bytes) -> "Modinfo":
    """Return the values of each name in a section .modinfo."""
    found: Modinfo = {}
    for entry in section.decode(errors="surrogateescape").split("\0"):
        name, equals, value = entry.partition("=")
        if equals:
            found.setdefault(name, []).append(value)
    return found


def read_modinfo_section(path: str, hint: str = "") -> tuple[bytes, int]:
    """Return the section .modinfo of a module, and how many bytes were read. Raises HostError.

    A compressed module is decompressed, and counts as a whole.
    """
    if path.endswith(_COMPRESSED):
        module = read_module(path)
        section, size = _find_section(partial(_slice, module))[0], len(module)
    else:
        section, size = _read_modinfo_section(path, hint)
    if not section:
        why = "it is no module of a 64-bit kernel, or it is truncated"
        raise HostError(f"cannot use the module {path}", why, hint)
    return section, size


def _read_modinfo_section(path: str, hint: str) -> tuple[bytes, int]:
    try:
        with open(open_file(path), "rb", buffering=0) as file:
            return _find_section(partial(_read_at, file.fileno()))
    except OSError as error:
        raise HostError(f"cannot read the module {path}", reason(error), hint) from error


def _find_section(read_at: "Callable[[int, int], bytes]") -> tuple[bytes, int]:
    """Return the section .modinfo of an ELF file, and how many bytes were read.

    `read_at` takes an offset and a length. The section is empty when there is none, and when the
    file is truncated.
    """
    try:
        return _read_section(read_at, b".modinfo")
    except struct.error:
        return b"", 0


def _read_section(read_at: "Callable[[int, int], bytes]", name: bytes) -> tuple[bytes, int]:
    """Return a section of an ELF file, and how many bytes were read; no section if there is none.

    Raises struct.error for a truncated file.
    """
    head = read_at(0, _ELF_HEADER_SIZE)
    if not head.startswith(_ELF64):
        return b"", 0
    order = "<" if head[5:6] == _LITTLE else ">"
    (table,) = struct.unpack_from(f"{order}Q", head, 40)
    size, count, names = struct.unpack_from(f"{order}HHH", head, 58)
    headers = read_at(table, size * count)
    sections = [struct.unpack_from(f"{order}I20xQQ", headers, size * n) for n in range(count)]
    strings = read_at(*sections[names][1:]) if names < count else b""
    for start, offset, length in sections:
        if strings.startswith(name + b"\0", start):
            return read_at(offset, length), len(headers) + len(strings) + length
    return b"", 0


def _read_at(file: int, offset: int, length: int) -> bytes:
    _check_section(offset, length, os.fstat(file).st_size)
    return os.pread(file, length, offset)


def _slice(content: bytes, offset: int, length: int) -> bytes:
    _check_section(offset, length, len(content))
    return content[offset : offset + length]


def _check_section(offset: int, length: int, size: int) -> None:
    """Raise struct.error for a section that is not in a file of `size` bytes, or too large."""
    if length > _MAX_SECTION or offset + length > size:
        raise struct.error("the section is not in the file, or too large")
