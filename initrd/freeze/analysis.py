"""What of PyInstaller's analysis goes into /init: a walk over the graph of imports.

Pure but for asking the running interpreter what it has frozen in. All it knows of PyInstaller are
the attributes of its graph and nodes that are named in `Graph`, `Node` and `Import`.
"""

import _imp
import sys
from collections.abc import Iterable, Iterator
from typing import Protocol

# Imported by the interpreter itself while it starts, or by the name of a codec.
CODECS = (
    "encodings",
    "encodings.aliases",
    "encodings.ascii",
    "encodings.latin_1",
    "encodings.utf_8",
)
# Built-in modules that the interpreter or its frozen modules import.
CORE = (
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
OURS = "initrd"
# Extension modules that are not packed: ours is linked in, and `typing` can do without its own.
NOT_PACKED = ("initrd.guest._syscalls", "_typing")
# What every boot imports; init.py's main() the second.
EVERY_BOOT = ("initrd.init", "initrd.guest.kernel")
# What a boot that runs a command imports beyond that.
SESSION = ("initrd.guest.command.session",)
# All that only `ip=` needs is in this package, which is imported when that asks for it.
NETWORK = "initrd.guest.network"
# Packages whose modules are imported without running the package itself: `bare_package` of
# initrd/guest/network/netlink.py. What the package itself imports is not used.
BARE = ("pyroute2",)


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
        """Return what a module imports."""

    def edgeData(self, importer: Node, imported: Node) -> Import | str | None:
        """Return how; nothing or `direct` when not by a statement (a package, a hook)."""


def reachable(graph: Graph, start: Iterable[str], without: Iterable[str] = ()) -> dict[str, Node]:
    """Return the modules that importing `start` can import, by name.

    In modules that are not ours it follows only what they need to be imported: what they import
    in their functions (`os` does `subprocess`, `time` does `_strptime`) is not used, and would be
    half the library. In ours it leaves out what only type checkers import.
    """
    found: dict[str, Node] = {}
    pending = [graph.find_node(name) for name in start]
    while pending:
        node = pending.pop()
        if node is None or node.identifier in found or _is_part(node.identifier, without):
            continue
        found[node.identifier] = node
        if node.identifier not in (*CODECS, *BARE, *sys.builtin_module_names):
            pending.extend(other for other in graph.outgoing(node) if _is_used(graph, node, other))
    return found


def import_order(graph: Graph, names: Iterable[str]) -> list[str]:
    """Return our modules that importing `names` imports, each after those it imports itself."""
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
    how = graph.edgeData(importer, imported)
    deferred = how is not None and not isinstance(how, str) and (how.function or how.conditional)
    is_source = imported.filename is not None and imported.filename.endswith(".py")
    return _top(imported.identifier) == OURS and is_source and not deferred


def _is_part(name: str, packages: Iterable[str]) -> bool:
    return any(f"{name}.".startswith(f"{package}.") for package in packages)


def _is_used(graph: Graph, importer: Node, imported: Node) -> bool:
    how = graph.edgeData(importer, imported)
    if how is None or isinstance(how, str):
        return True
    if _imp.is_frozen(importer.identifier):
        return not (how.function or how.tryexcept)
    if _top(importer.identifier) == OURS:  # it has no other condition than TYPE_CHECKING
        return how.function or not how.conditional
    return not how.function


def _top(name: str) -> str:
    return name.split(".", maxsplit=1)[0]


def sources(nodes: dict[str, Node]) -> Iterator[tuple[str, str]]:
    """Yield name and source file of those that are written in Python and not frozen already."""
    for name, node in sorted(nodes.items()):
        if node.filename and node.filename.endswith(".py") and not _imp.is_frozen(name):
            yield name, node.filename


def extensions(nodes: dict[str, Node]) -> Iterator[tuple[str, str]]:
    """Yield name and file of the extension modules that are to be packed."""
    for name, node in sorted(nodes.items()):
        if node.filename and node.filename.endswith(".so") and name not in NOT_PACKED:
            yield name, node.filename


def builtins(nodes: dict[str, Node]) -> list[str]:
    """Return the built-in modules among `nodes`, and those that the interpreter needs itself."""
    return sorted({*CORE, *(name for name in nodes if name in sys.builtin_module_names)})
