"""Read the modules of a kernel in its build tree, without `make modules_install`.

A build tree has no files of depmod: modules.order lists the modules, and each module has its
dependencies and aliases itself.

Source: the kernel's Documentation/kbuild/kbuild.rst.
"""

import os

from initrd.errors import reason
from initrd.host.image.kmod import ModuleTree
from initrd.host.image.unindexed import UnindexedDirectory, UnindexedTree
from initrd.host.system.hosterror import HostError
from initrd.host.system.printable import quote
from initrd.host.system.rootfile import (
    MODULE_LIST,
    SMALL_FILE,
    SizeLimit,
    find_in_root,
    read_file,
)

ORDER = "modules.order"
_RELEASE, _CONFIGURATION = "include/config/kernel.release", "include/config/auto.conf"


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
    """Return the modules in a build tree, or in a directory with or without depmod's files.

    Raises HostError.
    """
    if is_build_tree(directory):
        return BuildTree(directory)
    has_index = os.path.lexists(os.path.join(directory, "modules.dep"))
    return ModuleTree(directory) if has_index else UnindexedDirectory(directory)


class BuildTree(UnindexedTree):
    """The modules of a kernel in its build tree. Constructor and methods raise HostError."""

    hint_for_unknown = "switch it on in the kernel's configuration, and build the kernel again"
    _unlisted = f"another module needs it, but {ORDER} does not list it"

    def __init__(self, directory: str) -> None:
        self.directory = os.path.abspath(directory)
        self._root, self._path_in_root = self.directory, ""
        super().__init__(self._list_files())

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


def _read_text(directory: str, name: str, limit: SizeLimit) -> str:
    path = find_in_root(directory, name) or os.path.join(directory, name)
    try:
        return read_file(path, limit).decode(errors="surrogateescape")
    except OSError as error:
        raise HostError(f"cannot read {path}", reason(error)) from error
