"""Modules of a kernel that depmod has not been run for: each names its own dependencies.

A module has its dependencies, soft dependencies and aliases in its section .modinfo. Only modules
that an image needs are read; all of them when an alias is looked up that is neither a module nor
built in.

Sources: the kernel's include/linux/module.h (MODULE_INFO), depmod.d(5) for `updates`.
"""

import os
import stat
from functools import cached_property

from initrd.errors import reason
from initrd.host.image.kmod import (
    MAX_MODULES,
    ModuleTree,
    SoftDependency,
    canonical_name,
    find_kernels,
    module_name,
    parse_softdeps,
)
from initrd.host.image.modulefile import SUFFIXES, parse_modinfo, read_modinfo_section
from initrd.host.system.hosterror import HostError
from initrd.host.system.rootfile import list_directory

TYPE_CHECKING = False
if TYPE_CHECKING:
    from initrd.host.image.modulefile import Modinfo

_MAX_READ = 1 << 30  # bytes read of all modules of a tree; compressed ones count decompressed
_MAX_MODINFO = 32 << 20  # bytes of all .modinfo; all of Linux has some 10 MiB
_MAX_FOLDERS = 10_000  # of a module directory; a distribution's kernel has some 1000


class UnindexedTree(ModuleTree):
    """Modules of which only the names of the files are known before they are read.

    A subclass finds the files. Methods raise HostError.
    """

    def __init__(self, files: tuple[str, ...]) -> None:
        self.files = files  # paths in the directory; of two with one name the last one counts
        self._information: dict[str, Modinfo] = {}
        self._read_size = self._modinfo_size = 0  # bytes of the modules, so far
        self._lines = {module_name(file): f"{file}:" for file in self.files}

    def dependencies(self, name: str) -> tuple[str, ...]:
        """Return the modules whose symbols `name` uses itself."""
        words = ",".join(self._modinfo(name).get("depends", ())).split(",")
        return tuple(canonical_name(word) for word in words if word)

    def soft_dependencies(self, name: str) -> SoftDependency:
        """Return the soft dependencies of `name`, names or aliases, as they are written."""
        return parse_softdeps(text.split() for text in self._modinfo(name).get("softdep", ()))

    def path(self, name: str) -> str:
        """Return the path of the file that holds the module `name`."""
        return self._resolve(self._line(name).removesuffix(":"))

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
        """The names of the modules by alias, of all modules that exist."""
        found: dict[str, list[str]] = {}
        for name in sorted(self._lines):
            if os.path.exists(self.path(name)):
                for alias in map(canonical_name, self._modinfo(name).get("alias", ())):
                    found.setdefault(alias, []).append(name)
        return {alias: tuple(names) for alias, names in found.items()}


class UnindexedDirectory(UnindexedTree):
    """A directory `…/lib/modules/VERSION` without modules.dep, or any directory with modules.

    The constructor raises HostError when it has none, or those of several kernels.
    """

    hint_for_unknown = "a directory with all modules of the kernel, and its modules.builtin"
    _unlisted = "another module needs it, but there is no such file"

    def __init__(self, directory: str) -> None:
        self._set_directory(directory)
        super().__init__(self._find_files())
        if not self.files:
            raise self._explain_missing_modules_dep()
        self.knows_builtin = os.path.lexists(os.path.join(directory, "modules.builtin"))

    def _find_files(self) -> tuple[str, ...]:
        """Return the paths of the modules. Those in `updates` come last, as depmod prefers them."""
        found: list[str] = []
        folders = [""]
        for folder in folders:  # which grows
            files, further = self._list(folder)
            found += files
            folders += further
            if len(found) > MAX_MODULES or len(folders) > _MAX_FOLDERS:
                why = f"it has more than {MAX_MODULES} modules or {_MAX_FOLDERS} directories"
                raise HostError(f"cannot use {self.directory}", why, "that of one kernel")
        self.folders = tuple(map(self._resolve, folders))
        return tuple(sorted(found, key=lambda file: (file.startswith("updates/"), file)))

    def _list(self, folder: str) -> tuple[list[str], list[str]]:
        """Return the modules and the directories in a directory. Links to them are not followed."""
        path = self._resolve(folder)
        try:
            names = list_directory(path)
            others = [name for name in names if not name.endswith(SUFFIXES)]
            further = [name for name in others if _is_directory(os.path.join(path, name))]
        except OSError as error:
            what = f"{self.directory} is no directory of a kernel's modules"
            raise HostError(what, reason(error)) from error
        if not folder and find_kernels(path, further):
            raise self._explain_missing_modules_dep()
        files = [os.path.join(folder, name) for name in names if name.endswith(SUFFIXES)]
        return files, [os.path.join(folder, name) for name in further]


def _is_directory(path: str) -> bool:
    return stat.S_ISDIR(os.lstat(path).st_mode)
