"""Select the modules of /init from PyInstaller's graph of imports.

No input but the graph and the running interpreter's list of frozen modules. Of PyInstaller's
classes only the attributes declared in `Graph`, `Node` and `Import` are used.
"""

import _imp
import sys
from collections.abc import Iterable, Iterator
from typing import Protocol

# Imported by the interpreter while it starts, or by codec name.
CODECS = (
    "encodings",
    "encodings.aliases",
    "encodings.ascii",
    "encodings.latin_1",
    "encodings.utf_8",
)
# Built-in modules that the interpreter or its frozen modules import.
INTERPRETER_BUILTINS = (
    "_abc",
    "_ast",
    "_codecs",
    "_collections",
    "_functools",
    "_imp",
    "_io",
    "_locale",
    "_operator",
    "_signal",
    "_sre",
    "_stat",
    "_string",
    "_symtable",
    "_thread",
    "_tokenize",
    "_tracemalloc",
    "_warnings",
    "_weakref",
    "atexit",
    "builtins",
    "errno",
    "faulthandler",
    "gc",
    "itertools",
    "marshal",
    "posix",
    "pwd",
    "sys",
    "time",
)
OUR_PACKAGE = "initrd"
# Extension modules that are not packed: the first is linked into /init, the second is optional
# for `typing`.
NOT_PACKED = ("initrd.guest._syscalls", "_typing")
# Modules that every boot imports; init.py's main() imports the second one.
EVERY_BOOT = ("initrd.init", "initrd.guest.kernel")
# Modules that a boot which runs a command imports in addition.
SESSION = ("initrd.guest.command.session",)
# The package that is imported only when the kernel command line has `ip=`.
NETWORK = "initrd.guest.network"
# Packages whose modules are imported without executing the package's `__init__`, so the imports of
# `__init__` are not followed. See `bare_package` in initrd/guest/network/netlink.py.
BARE_PACKAGES = ("pyroute2",)


class Node(Protocol):
    """A module in the graph."""

    identifier: str
    filename: str | None


class Import(Protocol):
    """How one module imports another."""

    conditional: bool  # inside `if`
    function: bool  # inside a function
    tryexcept: bool  # inside `try`


class Graph(Protocol):
    """PyInstaller's graph of imports."""

    def find_node(self, name: str) -> Node | None:
        """Return the module of this name."""

    def outgoing(self, node: Node) -> Iterable[Node]:
        """Return the modules that a module imports."""

    def edgeData(self, importer: Node, imported: Node) -> Import | str | None:
        """Return the kind of import; None or `direct` if by no statement (a package, a hook)."""


def reachable(graph: Graph, start: Iterable[str], without: Iterable[str] = ()) -> dict[str, Node]:
    """Return the modules that importing `start` can import, by name.

    In modules of other packages, imports inside functions are not followed (`os` imports
    `subprocess` in this way, `time` imports `_strptime`): /init does not use them, and they would
    add half of the standard library. In our package, imports for type checkers are not followed.
    """
    found: dict[str, Node] = {}
    pending = [graph.find_node(name) for name in start]
    while pending:
        node = pending.pop()
        if node is None or node.identifier in found or _is_in_packages(node.identifier, without):
            continue
        found[node.identifier] = node
        if node.identifier not in (*CODECS, *BARE_PACKAGES, *sys.builtin_module_names):
            pending.extend(other for other in graph.outgoing(node) if _is_used(graph, node, other))
    return found


def import_order(graph: Graph, names: Iterable[str]) -> list[str]:
    """Return the modules of our package that importing `names` imports, dependencies first."""
    order: list[str] = []
    seen: set[str] = set()

    def visit(node: Node) -> None:
        seen.add(node.identifier)
        for other in sorted(graph.outgoing(node), key=lambda other: other.identifier):
            if other.identifier not in seen and _is_imported_with(graph, node, other):
                visit(other)
        order.append(node.identifier)

    for name in names:
        start = graph.find_node(name)
        if start is not None and name not in seen:
            visit(start)
    return order


def _is_imported_with(graph: Graph, importer: Node, imported: Node) -> bool:
    kind = graph.edgeData(importer, imported)
    if kind is None or isinstance(kind, str):
        is_deferred = False
    else:
        is_deferred = kind.function or kind.conditional
    is_source = imported.filename is not None and imported.filename.endswith(".py")
    return _top_package(imported.identifier) == OUR_PACKAGE and is_source and not is_deferred


def _is_in_packages(name: str, packages: Iterable[str]) -> bool:
    return any(f"{name}.".startswith(f"{package}.") for package in packages)


def _is_used(graph: Graph, importer: Node, imported: Node) -> bool:
    kind = graph.edgeData(importer, imported)
    if kind is None or isinstance(kind, str):
        return True
    if _imp.is_frozen(importer.identifier):
        return not (kind.function or kind.tryexcept)
    if _top_package(importer.identifier) == OUR_PACKAGE:  # its only condition is TYPE_CHECKING
        return kind.function or not kind.conditional
    return not kind.function


def _top_package(name: str) -> str:
    return name.split(".", maxsplit=1)[0]


def sources(nodes: dict[str, Node]) -> Iterator[tuple[str, str]]:
    """Yield name and source file of the Python modules that CPython has not frozen itself."""
    for name, node in sorted(nodes.items()):
        if node.filename and node.filename.endswith(".py") and not _imp.is_frozen(name):
            yield name, node.filename


def extensions(nodes: dict[str, Node]) -> Iterator[tuple[str, str]]:
    """Yield name and file of the extension modules to be packed."""
    for name, node in sorted(nodes.items()):
        if node.filename and node.filename.endswith(".so") and name not in NOT_PACKED:
            yield name, node.filename


def builtins(nodes: dict[str, Node]) -> list[str]:
    """Return the built-in modules among `nodes`, and those that the interpreter itself imports."""
    return sorted({*INTERPRETER_BUILTINS, *nodes.keys() & set(sys.builtin_module_names)})
