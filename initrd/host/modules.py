"""Choose the modules that an image needs, and the order in which to load them.

Pure, but for what a ModuleTree reads: the modules themselves are not opened.
"""

from collections.abc import Iterable
from graphlib import CycleError, TopologicalSorter

from initrd.host.failure import HostError
from initrd.host.kmod import ModuleTree
from initrd.host.needs import Need
from initrd.record import Record

Graph = dict[str, list[str]]  # a module, and what has to be loaded before it


class Module(Record):
    """A module that goes into an image."""

    name: str
    path: str  # its file, compressed or not


def choose(directory: str, needs: Iterable[Need]) -> tuple[Module, ...]:
    """Return the modules in `directory` that meet `needs`, in the order to load them.

    What is built into the kernel is left out. Raises HostError for a need that cannot be met, for
    a directory that is none of modules, and for dependencies that make no sense.
    """
    tree = ModuleTree(directory)
    names = [name for need in needs for name in _meet(tree, need)]
    return tuple(Module(name, tree.file(name)) for name in load_order(tree, names))


def _meet(tree: ModuleTree, need: Need) -> list[str]:
    found = [tree.find(word) for word in need.modules]
    if not need.optional and not any(names is not None for names in found):
        raise HostError(
            f"no module {' or '.join(need.modules)} in {tree.directory}",
            f"neither as a file nor built in, but needed for {need.purpose}",
            _advice(tree, need),
        )
    return [name for names in found for name in names or ()]


def _advice(tree: ModuleTree, need: Need) -> str:
    similar = tree.similar(need.modules[0]) if need.spelt_by_user else []
    if similar:
        return f"a name that is there, such as {', '.join(similar)}"
    return (
        "another kernel, or the package with the rest of this one's modules "
        "(linux-modules-extra, kernel-modules-extra)"
    )


def load_order(tree: ModuleTree, names: Iterable[str]) -> list[str]:
    """Return `names` and all that they need, each after what it needs.

    Soft dependencies are followed too. They may form circles: one that cannot be met is given up,
    though its module is included. Raises HostError for modules that need each other.
    """
    graph: Graph = {}
    wishes: list[tuple[str, str]] = []  # the one that should be loaded first, and the other
    waiting = list(names)
    while waiting:
        name = waiting.pop(0)
        if name in graph:
            continue
        graph[name] = list(tree.needs(name))
        before, after = _soft(tree, name)
        wishes += [(other, name) for other in before] + [(name, other) for other in after]
        waiting += [*graph[name], *before, *after]
    for first, then in wishes:
        if not _reaches(graph, first, then):
            graph[then].append(first)
    return _sorted(tree, graph)


def _soft(tree: ModuleTree, name: str) -> tuple[list[str], list[str]]:
    soft = tree.soft(name)
    before = [other for word in soft.before for other in tree.find(word) or ()]
    after = [other for word in soft.after for other in tree.find(word) or ()]
    return before, after


def _reaches(graph: Graph, start: str, goal: str) -> bool:
    seen: set[str] = set()
    waiting = [start]
    while waiting:
        name = waiting.pop()
        if name == goal:
            return True
        if name not in seen:
            seen.add(name)
            waiting += graph[name]
    return False


def _sorted(tree: ModuleTree, graph: Graph) -> list[str]:
    try:
        return list(TopologicalSorter(graph).static_order())
    except CycleError as error:
        circle = " needs ".join(reversed(error.args[1]))
        raise HostError(
            f"cannot order the modules in {tree.directory}", circle, tree.advice
        ) from None
