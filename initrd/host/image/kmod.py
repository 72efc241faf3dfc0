"""Read a kernel's module directory: its modules, their dependencies, and the built-in modules.

Reads the text files that depmod writes and those that come with the kernel, each when it is first
needed; the modules themselves are not opened. In a module's name `-` and `_` are the same.

Symbolic links are followed as in the root that the directory is part of, and never out of it: the
root may be untrusted, and its links must not reach other files of the host. For the same reason the
files, and what one of them can cause, are limited.

Source: modules.dep(5), modprobe.d(5), the kernel's Documentation/kbuild/kbuild.rst.
"""

import os
import re
from functools import cached_property
from itertools import islice

from initrd.errors import reason
from initrd.host.system.hosterror import HostError
from initrd.host.system.printable import quote
from initrd.host.system.rootfile import MODULE_LIST, find_in_root, list_directory, read_file
from initrd.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

# In a root; the second one for roots whose /lib is not a link to /usr/lib.
MODULE_DIRECTORIES = ("usr/lib/modules", "lib/modules")
MAX_MODULES = 20_000  # of a kernel, and dependencies of one module; all of Linux has some 10,000
_IN_MODULE_DIRECTORIES = ("modules.dep", "modules.order", "modules.builtin")
_MODULES = "kernel"  # the folder with a kernel's own modules, in its module directory
_MAX_VERSIONS_NAMED = 5  # in a message


class SoftDependency(Record):
    """Modules to load before and after a module, as far as they exist: names or aliases."""

    before: tuple[str, ...] = ()
    after: tuple[str, ...] = ()


def canonical_name(name: str) -> str:
    """Return a module's name as the kernel has it."""
    return name.replace("-", "_")


def module_name(path: str) -> str:
    """Return the name of the module in the file `path`: `a/virtio-rng.ko.xz` is `virtio_rng`."""
    return canonical_name(path.rpartition("/")[2].partition(".ko")[0])


class ModuleTree:
    """The modules of one kernel, in a directory `…/lib/modules/VERSION`.

    The constructor raises HostError when the directory cannot be used, and the methods raise it
    when a file in the directory is damaged.
    """

    # What the user may try when a module is neither there nor built in.
    hint_for_unknown = (
        "another kernel, or the package with the rest of this one's modules "
        "(linux-modules-extra, kernel-modules-extra)"
    )
    folders: tuple[str, ...] = ()  # the directories whose names it has been made from
    knows_builtin = True  # whether a module that is not found is not built in either
    _unlisted = "modules.dep names it as a dependency, but has no line for it"

    def __init__(self, directory: str) -> None:
        self._set_directory(directory)
        lines = self._split("modules.dep", "\n", required=True)
        self._lines = {module_name(line.partition(":")[0]): line for line in lines if ":" in line}

    def find(self, word: str) -> tuple[str, ...] | None:
        """Return the modules with the name or the alias `word`; None when there is none.

        The result is empty when the kernel has the module built in. An alias is matched literally.
        """
        name = canonical_name(word)
        if name in self._builtin:
            return ()
        if name in self._lines:
            return (name,)
        return self._find_alias(name)

    def dependencies(self, name: str) -> tuple[str, ...]:
        """Return the modules whose symbols `name` uses, in the order to load them."""
        files = self._line(name).partition(":")[2].split(None, MAX_MODULES)
        if len(files) > MAX_MODULES:
            why = f"it has more than {MAX_MODULES} dependencies"
            raise HostError(f"module {name} of {self.directory}", why, self.hint)
        return tuple(module_name(file) for file in reversed(files))

    def soft_dependencies(self, name: str) -> SoftDependency:
        """Return the soft dependencies of `name`, names or aliases, as they are written.

        All lines for `name` count, though modprobe uses the first only: in the guest no modprobe
        can load a missing module later.
        """
        return self._soft_dependencies.get(name, SoftDependency())

    def path(self, name: str) -> str:
        """Return the path of the file that holds the module `name`."""
        return self._resolve(self._line(name).partition(":")[0].lstrip("/"))

    def similar_names(self, word: str) -> list[str]:
        """Return names that `word` may be a misspelling of."""
        from difflib import get_close_matches  # noqa: PLC0415 - only to explain a failure

        names = islice((*self._lines, *self._builtin), MAX_MODULES)
        return get_close_matches(canonical_name(word), names)

    @property
    def hint(self) -> str:
        """What the user may try when depmod's files are missing or do not fit the modules."""
        folder, version = os.path.split(os.path.abspath(self.directory))
        base = folder.removesuffix("/lib/modules")
        command = f"depmod -b {quote(base or '/')} {quote(version)}" if base != folder else "depmod"
        return f"reinstall the kernel's package, or run {command}"

    def _set_directory(self, directory: str) -> None:
        self.directory = directory
        self._root, self._path_in_root = _split_root(os.path.abspath(directory))

    def _line(self, name: str) -> str:
        """Return the line of modules.dep for a module."""
        try:
            return self._lines[name]
        except KeyError:
            raise HostError(
                f"module {name} of {self.directory}",
                self._unlisted,
                self.hint,
            ) from None

    def _find_alias(self, alias: str) -> tuple[str, ...] | None:
        """Return the modules with an alias in canonical form."""
        if alias in self._builtin_aliases:
            return ()
        return self._modules_by_alias.get(alias)

    @cached_property
    def _builtin_aliases(self) -> frozenset[str]:
        text = canonical_name(self._read("modules.builtin.modinfo"))
        # With a NUL at its end the pattern would take quadratic time where that is missing.
        return frozenset(re.findall(r"\.alias=([^\0]*)", text))

    @cached_property
    def _modules_by_alias(self) -> dict[str, tuple[str, ...]]:
        """The names of modules by alias. One pass, however many aliases are looked up."""
        found: dict[str, list[str]] = {}
        text = canonical_name(self._read("modules.alias"))
        for alias, name in re.findall(r"^alias (\S+) (\S+)$", text, re.MULTILINE):
            if name in self._lines:
                found.setdefault(alias, []).append(name)
        return {alias: tuple(sorted({*names})) for alias, names in found.items()}

    @cached_property
    def _builtin(self) -> frozenset[str]:
        return frozenset(module_name(line) for line in self._split("modules.builtin"))

    @cached_property
    def _soft_dependencies(self) -> dict[str, SoftDependency]:
        found: dict[str, list[list[str]]] = {}
        for line in self._read("modules.softdep").split("\n"):
            words = line.split()
            if len(words) > 2 and words[0] == "softdep":
                found.setdefault(canonical_name(words[1]), []).append(words[2:])
        return {name: parse_softdeps(lines) for name, lines in found.items()}

    def _split(
        self, name: str, separator: str | None = None, *, required: bool = False
    ) -> list[str]:
        """Return the parts of a file with one for each module. Raises HostError for too many."""
        parts = self._read(name, required=required).split(separator, MAX_MODULES)
        if len(parts) > MAX_MODULES:
            why = f"it has more than {MAX_MODULES} modules"
            raise HostError(f"cannot use {os.path.join(self.directory, name)}", why, self.hint)
        return parts

    def _read(self, name: str, *, required: bool = False) -> str:
        """Return the contents of a file of the directory; empty when it is missing."""
        path = self._resolve(name)
        try:
            return read_file(path, MODULE_LIST).decode(errors="surrogateescape")
        except FileNotFoundError as error:  # only modules.dep is there for every kernel
            if required:
                raise self._explain_missing_modules_dep() from error
            return ""
        except OSError as error:
            raise HostError(f"cannot read {path}", reason(error)) from error

    def _resolve(self, name: str) -> str:
        """Return the path of a file of the directory, which need not exist. Raises HostError."""
        path = os.path.join(self.directory, name)
        resolved = find_in_root(self._root, os.path.join(self._path_in_root, name))
        if not resolved and os.path.exists(path):
            raise HostError(f"cannot read {path}", f"it leads out of {self._root}")
        return resolved or path

    def _explain_missing_modules_dep(self) -> HostError:
        failure = f"{self.directory} is no directory of a kernel's modules"
        try:
            names = sorted(list_directory(self._resolve("")))
        except OSError as error:
            return HostError(failure, reason(error))
        versions = find_kernels(self.directory, names)
        if versions:
            some = " or ".join(versions[:_MAX_VERSIONS_NAMED])
            return HostError(failure, "it holds those of several", some)
        return HostError(failure, "it has no modules.dep", self.hint)


def _split_root(directory: str) -> tuple[str, str]:
    """Return the root that a module directory is part of, and the directory's path in that root."""
    folder, version = os.path.split(directory)
    for modules in MODULE_DIRECTORIES:
        if folder.endswith(f"/{modules}"):
            return folder.removesuffix(modules), os.path.join(modules, version)
    return directory, ""


def find_kernels(directory: str, names: "Iterable[str]") -> list[str]:
    """Return the paths of the module directories of kernels, among these names in a directory."""
    folders = list(names)
    # A module directory has a folder `kernel`, and that may have one for the kernel's kernel/.
    marks = _IN_MODULE_DIRECTORIES + (() if _MODULES in folders else (_MODULES,))
    paths = [os.path.join(directory, name) for name in folders]
    return [
        path for path in paths if any(os.path.lexists(os.path.join(path, mark)) for mark in marks)
    ]


def parse_softdeps(lines: "Iterable[list[str]]") -> SoftDependency:
    """Return the soft dependencies in the words of some lines: `pre: NAME… post: NAME…`."""
    before: list[str] = []
    after: list[str] = []
    for words in lines:
        current = None
        for word in words:
            if word in ("pre:", "post:"):
                current = before if word == "pre:" else after
            elif current is not None:  # modprobe ignores words before `pre:` and `post:`
                current.append(word)
    return SoftDependency(tuple(before), tuple(after))
