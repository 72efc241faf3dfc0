"""Read the modules of a kernel in its build tree, without `make modules_install`.

A build tree has no files of depmod: modules.order lists the modules, and each module has its
dependencies and aliases itself, in the section .modinfo. Only modules that an image needs are read;
all of them when an alias is looked up that is neither a module nor built in.

Sources: the kernel's Documentation/kbuild/kbuild.rst and include/linux/module.h (MODULE_INFO),
elf(5).
"""

import os
import struct
from functools import cached_property

from initrd.errors import reason
from initrd.host.image.kmod import (
    ModuleTree,
    SoftDependency,
    canonical_name,
    module_name,
    parse_softdeps,
)
from initrd.host.system.hosterror import HostError
from initrd.host.system.printable import quote
from initrd.host.system.rootfile import (
    MODULE_LIST,
    SMALL_FILE,
    SizeLimit,
    find_in_root,
    open_file,
    read_file,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    Modinfo = dict[str, list[str]]

ORDER = "modules.order"
_RELEASE, _CONFIGURATION = "include/config/kernel.release", "include/config/auto.conf"
_ELF64, _LITTLE = b"\x7fELF\x02", b"\x01"
_ELF_HEADER_SIZE = 64  # bytes
_MAX_SECTION = 4 << 20  # bytes of a section that is read; 65535 section headers have this size
_MAX_READ = 256 << 20  # bytes read of all modules of a tree; all of Linux needs some 100 MiB
_MAX_MODINFO = 32 << 20  # bytes of all .modinfo; all of Linux has some 10 MiB


def is_build_tree(directory: str) -> bool:
    """Return whether a kernel has been configured and built in a directory, at least in part."""
    return os.path.isfile(find_in_root(directory, _RELEASE))


def read_tree_release(directory: str) -> str:
    """Return the release of the kernel in a build tree. Raises HostError."""
    return _read_text(directory, _RELEASE, SMALL_FILE).strip()


def has_option(directory: str, name: str) -> bool:
    """Return whether the kernel is configured with CONFIG_NAME=y. Raises HostError."""
    return f"\nCONFIG_{name}=y\n" in f"\n{_read_text(directory, _CONFIGURATION, MODULE_LIST)}\n"


def open_modules(directory: str) -> ModuleTree:
    """Return the modules in a build tree, or in a directory that depmod has been run for.

    Raises HostError.
    """
    return BuildTree(directory) if is_build_tree(directory) else ModuleTree(directory)


class BuildTree(ModuleTree):
    """The modules of a kernel in its build tree. Constructor and methods raise HostError."""

    hint_for_unknown = "switch it on in the kernel's configuration, and build the kernel again"
    _unlisted = f"another module needs it, but {ORDER} does not list it"

    def __init__(self, directory: str) -> None:
        self.directory = os.path.abspath(directory)
        self._root, self._path_in_root = self.directory, ""
        self._information: dict[str, Modinfo] = {}
        self._read_size = self._modinfo_size = 0  # bytes of the modules, so far
        self.files = self._list_files()
        self._lines = {module_name(file): f"{file}:" for file in self.files}

    def dependencies(self, name: str) -> tuple[str, ...]:
        """Return the modules whose symbols `name` uses itself."""
        words = ",".join(self._modinfo(name).get("depends", ())).split(",")
        return tuple(canonical_name(word) for word in words if word)

    def soft_dependencies(self, name: str) -> SoftDependency:
        """Return the soft dependencies of `name`, names or aliases, as they are written."""
        return parse_softdeps(text.split() for text in self._modinfo(name).get("softdep", ()))

    def find_file(self, name: str) -> str:
        """Return the path of a file of the tree, which need not exist.

        Raises HostError for a link that leads out of the tree.
        """
        return self._resolve(name)

    @property
    def hint(self) -> str:
        """What the user may try when modules are missing or damaged."""
        return f"make -C {quote(self.directory)} modules"

    def _list_files(self) -> tuple[str, ...]:
        """Return the paths of the modules in the tree. From Linux 6.3 on the list has `.o`."""
        lines = self._split(ORDER)
        is_written = lines or os.path.exists(os.path.join(self.directory, ORDER))
        if not is_written and has_option(self.directory, "MODULES"):
            why = f"it has no {ORDER}, so they have not been built"
            raise HostError(f"cannot use the modules in {self.directory}", why, self.hint)
        for line in lines:
            if line.startswith("/") or ".." in line.split("/"):
                why = f"{ORDER} has the path {line}, which leads out of it"
                raise HostError(f"cannot use the modules in {self.directory}", why, self.hint)
        return tuple(f"{line.rpartition('.')[0]}.ko" for line in lines)

    def _modinfo(self, name: str) -> "Modinfo":
        if name not in self._information:
            section, size = read_modinfo_section(self.path(name), self.hint)
            self._read_size += size
            self._modinfo_size += len(section)
            if self._read_size > _MAX_READ or self._modinfo_size > _MAX_MODINFO:
                why = "their sections have more bytes than those of any kernel"
                raise HostError(f"cannot use the modules in {self.directory}", why, self.hint)
            self._information[name] = parse_modinfo(section)
        return self._information[name]

    def _find_alias(self, alias: str) -> tuple[str, ...] | None:
        found = super()._find_alias(alias)
        return self._aliases.get(alias) if found is None else found

    @cached_property
    def _aliases(self) -> dict[str, tuple[str, ...]]:
        """The names of the modules by alias, of all modules that have been built."""
        found: dict[str, list[str]] = {}
        for name in sorted(self._lines):
            if os.path.exists(self.path(name)):
                for alias in map(canonical_name, self._modinfo(name).get("alias", ())):
                    found.setdefault(alias, []).append(name)
        return {alias: tuple(names) for alias, names in found.items()}


def parse_modinfo(section: bytes) -> "Modinfo":
    """Return the values of each name in a section .modinfo."""
    found: Modinfo = {}
    for entry in section.decode(errors="surrogateescape").split("\0"):
        name, equals, value = entry.partition("=")
        if equals:
            found.setdefault(name, []).append(value)
    return found


def read_modinfo_section(path: str, hint: str = "") -> tuple[bytes, int]:
    """Return the section .modinfo of a module, and how many bytes were read. Raises HostError."""
    try:
        with open(open_file(path), "rb", buffering=0) as file:
            section, size = _read_section(file.fileno(), b".modinfo")
    except OSError as error:
        raise HostError(f"cannot read the module {path}", reason(error), hint) from error
    except struct.error:
        section, size = b"", 0
    if not section:
        why = "it is no module of a 64-bit kernel, or it is truncated"
        raise HostError(f"cannot use the module {path}", why, hint)
    return section, size


def _read_section(file: int, name: bytes) -> tuple[bytes, int]:
    """Return a section of an ELF file, and how many bytes were read; no section if there is none.

    Raises struct.error for a truncated file.
    """
    head = os.pread(file, _ELF_HEADER_SIZE, 0)
    if not head.startswith(_ELF64):
        return b"", 0
    order = "<" if head[5:6] == _LITTLE else ">"
    (table,) = struct.unpack_from(f"{order}Q", head, 40)
    size, count, names = struct.unpack_from(f"{order}HHH", head, 58)
    headers = _read_at(file, table, size * count)
    sections = [struct.unpack_from(f"{order}I20xQQ", headers, size * n) for n in range(count)]
    strings = _read_at(file, *sections[names][1:]) if names < count else b""
    for start, offset, length in sections:
        if strings.startswith(name + b"\0", start):
            return _read_at(file, offset, length), len(headers) + len(strings) + length
    return b"", 0


def _read_at(file: int, offset: int, length: int) -> bytes:
    if length > _MAX_SECTION or offset + length > os.fstat(file).st_size:
        raise struct.error("the section is not in the file, or too large")
    return os.pread(file, length, offset)


def _read_text(directory: str, name: str, limit: SizeLimit) -> str:
    path = find_in_root(directory, name) or os.path.join(directory, name)
    try:
        return read_file(path, limit).decode(errors="surrogateescape")
    except OSError as error:
        raise HostError(f"cannot read {path}", reason(error)) from error
