"""Which modules of the graph of imports are frozen."""

from collections.abc import Iterable
from typing import NamedTuple

import pytest

from initrd.freeze import analysis


class Node(NamedTuple):
    identifier: str
    filename: str | None = None


class Import(NamedTuple):
    conditional: bool = False
    function: bool = False
    tryexcept: bool = False


PLAIN, LATER, MAYBE, TRIED = Import(), Import(function=True), Import(True), Import(tryexcept=True)


class Graph:
    """A graph of imports: importer, imported, how."""

    def __init__(self, *edges: tuple[str, str, Import | str | None]) -> None:
        self.edges = edges

    def find_node(self, name: str) -> Node | None:
        known = {end for edge in self.edges for end in edge[:2]}
        return Node(name, f"/{name}.py") if name in known else None

    def outgoing(self, node: analysis.Node) -> Iterable[Node]:
        return [Node(to, f"/{to}.py") for start, to, _ in self.edges if start == node.identifier]

    def edgeData(self, importer: analysis.Node, imported: analysis.Node) -> Import | str | None:
        found = {(start, to): how for start, to, how in self.edges}
        return found[importer.identifier, imported.identifier]


def names(graph: Graph, *start: str, without: Iterable[str] = ()) -> list[str]:
    return sorted(analysis.reachable(graph, start, without))


@pytest.mark.parametrize(
    ("importer", "how", "followed"),
    [
        pytest.param("initrd.a", PLAIN, True, id="ours, at the top"),
        pytest.param("initrd.a", LATER, True, id="ours, in a function"),
        pytest.param("initrd.a", MAYBE, False, id="ours, for type checkers"),
        pytest.param("initrd.a", Import(True, True), True, id="ours, for type checkers and later"),
        pytest.param("initrd.a", "direct", True, id="ours, its package"),
        pytest.param("initrd.a", None, True, id="ours, by a hook"),
        pytest.param("other", PLAIN, True, id="others', at the top"),
        pytest.param("other", LATER, False, id="others', in a function"),
        pytest.param("other", MAYBE, True, id="others', on a condition"),
        pytest.param("other", TRIED, True, id="others', tried"),
        pytest.param("os", PLAIN, True, id="the interpreter's, at the top"),
        pytest.param("os", TRIED, False, id="the interpreter's, tried"),
        pytest.param("os", LATER, False, id="the interpreter's, in a function"),
        pytest.param("time", PLAIN, False, id="built in: a hook's guess"),
        pytest.param("encodings", PLAIN, False, id="codecs are named one by one"),
        pytest.param("pyroute2", PLAIN, False, id="a package that is not run"),
    ],
)
def test_what_is_followed(importer: str, how: Import | str | None, followed: bool) -> None:
    found = names(Graph((importer, "target", how)), importer)
    assert found == sorted([importer, "target"] if followed else [importer])


def test_a_package_is_left_out_with_all_its_modules() -> None:
    graph = Graph(("a", "net", PLAIN), ("a", "net.x", PLAIN), ("a", "network", PLAIN))
    assert names(graph, "a", without=["net"]) == ["a", "network"]


def test_imports_in_circles_and_of_nothing_end() -> None:
    graph = Graph(("a", "b", PLAIN), ("b", "a", PLAIN))
    assert names(graph, "a", "not there") == ["a", "b"]


def test_modules_are_in_the_order_of_their_imports() -> None:
    graph = Graph(
        ("initrd.init", "initrd", "direct"),
        ("initrd.init", "initrd.b", PLAIN),
        ("initrd.init", "initrd.a", PLAIN),
        ("initrd.init", "initrd.later", LATER),
        ("initrd.init", "initrd.typed", MAYBE),
        ("initrd.init", "os", PLAIN),
        ("initrd.a", "initrd.c", PLAIN),
        ("initrd.b", "initrd.c", PLAIN),
        ("initrd.c", "initrd.b", PLAIN),
        ("initrd.kernel", "initrd.a", PLAIN),
    )
    order = analysis.import_order(graph, ["initrd.init", "initrd.kernel", "initrd.not there"])
    assert order == ["initrd", "initrd.b", "initrd.c", "initrd.a", "initrd.init", "initrd.kernel"]


def test_what_the_interpreter_has_frozen_is_not_frozen_again() -> None:
    nodes = {name: Node(name, f"/{name}.py") for name in ("os", "b", "a")}
    nodes["x"] = Node("x", "/x.cpython-311.so")
    nodes["sys"] = Node("sys")
    nodes["_typing"] = Node("_typing", "/_typing.so")
    assert list(analysis.sources(nodes)) == [("a", "/a.py"), ("b", "/b.py")]
    assert list(analysis.extensions(nodes)) == [("x", "/x.cpython-311.so")]


def test_built_in_modules_are_those_used_and_those_the_interpreter_needs() -> None:
    found = analysis.builtins({"time": Node("time"), "a": Node("a", "/a.py")})
    assert set(found) == set(analysis.CORE)
    assert found == sorted(found)
