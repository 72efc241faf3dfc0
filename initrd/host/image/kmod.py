"""Read a kernel's module directory: which modules there are, what they need, what is built in.

Reads the text files that depmod writes and that come with the kernel, each when it is first needed;
the modules themselves are not opened. In a module's name `-` and `_` are the same. A link leads
where it would lead in the root that the directory is in, never out of it: whoever made that root
shall not get at the files of this machine.

Source: modules.dep(5), modprobe.d(5), the kernel's Documentation/kbuild/kbuild.rst.
"""

import os
import re
from functools import cached_property
from shlex import quote

from initrd.errors import HostError, reason
from initrd.host.system.files import resolve_in_root
from initrd.record import Record

MODULES = ("usr/lib/modules", "lib/modules")  # the second: roots whose /lib is not a link


class SoftDependency(Record):
    """What should be loaded before and after a module, as far as it exists."""

    before: tuple[str, ...] = ()
    after: tuple[str, ...] = ()


def canonical(name: str) -> str:
    """Return a module's name as the kernel has it."""
    return name.replace("-", "_")


def name_of(path: str) -> str:
    """Return the name of the module in the file `path`: `a/virtio-rng.ko.xz` is `virtio_rng`."""
    return canonical(path.rpartition("/")[2].partition(".ko")[0])


class ModuleTree:
    """The modules of one kernel: what is in a directory `…/lib/modules/VERSION`.

    Raises HostError when the directory cannot be used; so do the methods for damaged files.
    """

    def __init__(self, directory: str) -> None:
        self.directory = directory
        self._root, self._below = _root_of(os.path.abspath(directory))
        lines = self._read("modules.dep", required=True).split("\n")
        self._lines = {name_of(line.partition(":")[0]): line for line in lines if ":" in line}

    def find(self, word: str) -> tuple[str, ...] | None:
        """Return the modules that `word`, a name or an alias, stands for; None: nowhere.

        None of them when the kernel has it built in. An alias is matched literally.
        """
        name = canonical(word)
        if name in self._builtin:
            return ()
        if name in self._lines:
            return (name,)
        return self._find_alias(name)

    def needs(self, name: str) -> tuple[str, ...]:
        """Return the modules without whose symbols `name` cannot be loaded, the first first."""
        files = self._line(name).partition(":")[2].split()
        return tuple(name_of(file) for file in reversed(files))

    def soft(self, name: str) -> SoftDependency:
        """Return the soft dependencies of `name`, names or aliases, as they are written.

        From all lines for it; modprobe looks at the first, and /init has no modprobe to ask later.
        """
        return self._soft.get(name, SoftDependency())

    def file(self, name: str) -> str:
        """Return the path of the file that holds `name`."""
        return self._resolve(self._line(name).partition(":")[0].lstrip("/"))

    def similar(self, word: str) -> list[str]:
        """Return names that `word` may be a misspelling of."""
        from difflib import get_close_matches  # noqa: PLC0415 - only to explain a failure

        return get_close_matches(canonical(word), [*self._lines, *self._builtin])

    @property
    def advice(self) -> str:
        """What to try when depmod's files are missing or do not fit the modules."""
        folder, version = os.path.split(os.path.abspath(self.directory))
        base = folder.removesuffix("/lib/modules")
        command = f"depmod -b {quote(base or '/')} {quote(version)}" if base != folder else "depmod"
        return f"reinstall the kernel's package, or run {command}"

    def _line(self, name: str) -> str:
        try:
            return self._lines[name]
        except KeyError:
            raise HostError(
                f"module {name}",
                f"{self.directory}/modules.dep names it as a dependency, but has no line for it",
                self.advice,
            ) from None

    def _find_alias(self, alias: str) -> tuple[str, ...] | None:
        text = re.escape(alias).replace("_", "[-_]")
        if re.search(rf"\.alias={text}\0", self._read("modules.builtin.modinfo")):
            return ()
        found = re.findall(rf"^alias {text} (\S+)$", self._read("modules.alias"), re.MULTILINE)
        names = tuple(sorted({canonical(name) for name in found} & self._lines.keys()))
        return names or None

    @cached_property
    def _builtin(self) -> frozenset[str]:
        return frozenset(name_of(line) for line in self._read("modules.builtin").split())

    @cached_property
    def _soft(self) -> dict[str, SoftDependency]:
        found: dict[str, SoftDependency] = {}
        for line in self._read("modules.softdep").split("\n"):
            words = line.split()
            if len(words) > 2 and words[0] == "softdep":
                name = canonical(words[1])
                found[name] = _merge(found.get(name, SoftDependency()), words[2:])
        return found

    def _read(self, name: str, *, required: bool = False) -> str:
        path = self._resolve(name)
        try:
            with open(path, encoding="utf-8", errors="surrogateescape") as file:
                return file.read()
        except FileNotFoundError as error:  # a kernel may have nothing to say there
            if required:
                raise self._unusable() from error
            return ""
        except OSError as error:
            raise HostError(f"cannot read {path}", reason(error)) from error

    def _resolve(self, name: str) -> str:
        """Return the path of a file of the tree, which need not exist. Raises HostError."""
        plain = os.path.join(self.directory, name)
        found = resolve_in_root(self._root, os.path.join(self._below, name))
        if not found and os.path.exists(plain):
            raise HostError(f"cannot read {plain}", f"it leads out of {self._root}")
        return found or plain

    def _unusable(self) -> HostError:
        what = f"{self.directory} is no directory of a kernel's modules"
        try:
            names = sorted(os.listdir(self.directory))
        except OSError as error:
            return HostError(what, reason(error))
        inside = [os.path.join(self.directory, name) for name in names]
        versions = [path for path in inside if os.path.exists(f"{path}/modules.dep")]
        if versions:
            return HostError(what, "it holds those of several", " or ".join(versions))
        return HostError(what, "it has no modules.dep", self.advice)


def _root_of(directory: str) -> tuple[str, str]:
    """Return the root that a module directory is in, and the way from there."""
    folder, version = os.path.split(directory)
    for modules in MODULES:
        if folder.endswith(f"/{modules}"):
            return folder.removesuffix(modules), os.path.join(modules, version)
    return directory, ""


def _merge(known: SoftDependency, words: list[str]) -> SoftDependency:
    before, after, current = [*known.before], [*known.after], None
    for word in words:
        if word in ("pre:", "post:"):
            current = before if word == "pre:" else after
        elif current is not None:  # words before the first of the two mean nothing to modprobe
            current.append(word)
    return SoftDependency(tuple(before), tuple(after))
