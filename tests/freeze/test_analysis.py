"""The selection of modules from PyInstaller's graph of imports."""

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


PLAIN = Import()
IN_FUNCTION = Import(function=True)
IN_IF = Import(conditional=True)
IN_TRY = Import(tryexcept=True)


class Graph:
    """A graph of imports; an edge is importer, imported module, kind of import."""

    def __init__(self, *edges: tuple[str, str, Import | str | None]) -> None:
        self._edges = edges

    def find_node(self, name: str) -> Node | None:
        known = {end for edge in self._edges for end in edge[:2]}
        return Node(name, f"/{name}.py") if name in known else None

    def outgoing(self, node: analysis.Node) -> Iterable[Node]:
        return [Node(to, f"/{to}.py") for start, to, _ in self._edges if start == node.identifier]

    def edgeData(self, importer: analysis.Node, imported: analysis.Node) -> Import | str | None:
        found = {(start, to): kind for start, to, kind in self._edges}
        return found[importer.identifier, imported.identifier]


def reachable_names(graph: Graph, *start: str, without: Iterable[str] = ()) -> list[str]:
    return sorted(analysis.reachable(graph, start, without))


@pytest.mark.parametrize(
    ("importer", "kind", "is_followed"),
    [
        pytest.param("initrd.a", PLAIN, True, id="our module, at the top"),
        pytest.param("initrd.a", IN_FUNCTION, True, id="our module, in a function"),
        pytest.param("initrd.a", IN_IF, False, id="our module, under TYPE_CHECKING"),
        pytest.param(
            "initrd.a", Import(True, True), True, id="our module, TYPE_CHECKING and in a function"
        ),
        pytest.param("initrd.a", "direct", True, id="our module, its package"),
        pytest.param("initrd.a", None, True, id="our module, by a hook"),
        pytest.param("other", PLAIN, True, id="other module, at the top"),
        pytest.param("other", IN_FUNCTION, False, id="other module, in a function"),
        pytest.param("other", IN_IF, True, id="other module, in if"),
        pytest.param("other", IN_TRY, True, id="other module, in try"),
        pytest.param("os", PLAIN, True, id="frozen in CPython, at the top"),
        pytest.param("os", IN_TRY, False, id="frozen in CPython, in try"),
        pytest.param("os", IN_FUNCTION, False, id="frozen in CPython, in a function"),
        pytest.param("time", PLAIN, False, id="built-in module, by a hook"),
        pytest.param("encodings", PLAIN, False, id="codec, listed by name"),
        pytest.param("pyroute2", PLAIN, False, id="package that is not executed"),
    ],
)
def test_imports_are_followed_by_their_kind_and_importer(
    importer: str, kind: Import | str | None, is_followed: bool
) -> None:
    found = reachable_names(Graph((importer, "target", kind)), importer)
    assert found == sorted([importer, "target"] if is_followed else [importer])


def test_an_excluded_package_is_left_out_with_all_its_modules() -> None:
    graph = Graph(("a", "net", PLAIN), ("a", "net.x", PLAIN), ("a", "network", PLAIN))
    assert reachable_names(graph, "a", without=["net"]) == ["a", "network"]


def test_circular_imports_and_unknown_modules_are_accepted() -> None:
    graph = Graph(("a", "b", PLAIN), ("b", "a", PLAIN))
    assert reachable_names(graph, "a", "not there") == ["a", "b"]


def test_import_order_puts_a_module_after_its_dependencies() -> None:
    graph = Graph(
        ("initrd.init", "initrd", "direct"),
        ("initrd.init", "initrd.b", PLAIN),
        ("initrd.init", "initrd.a", PLAIN),
        ("initrd.init", "initrd.later", IN_FUNCTION),
        ("initrd.init", "initrd.typed", IN_IF),
        ("initrd.init", "os", PLAIN),
        ("initrd.a", "initrd.c", PLAIN),
        ("initrd.b", "initrd.c", PLAIN),
        ("initrd.c", "initrd.b", PLAIN),
        ("initrd.kernel", "initrd.a", PLAIN),
    )
    order = analysis.import_order(graph, ["initrd.init", "initrd.kernel", "initrd.not there"])
    assert order == ["initrd", "initrd.b", "initrd.c", "initrd.a", "initrd.init", "initrd.kernel"]


def test_sources_and_extensions_leave_out_modules_that_cpython_or_init_contains() -> None:
    nodes = {name: Node(name, f"/{name}.py") for name in ("os", "b", "a")}
    nodes["x"] = Node("x", "/x.cpython-311.so")
    nodes["sys"] = Node("sys")
    nodes["_typing"] = Node("_typing", "/_typing.so")
    assert list(analysis.sources(nodes)) == [("a", "/a.py"), ("b", "/b.py")]
    assert list(analysis.extensions(nodes)) == [("x", "/x.cpython-311.so")]


def test_builtins_are_the_modules_used_and_those_of_the_interpreter() -> None:
    found = analysis.builtins({"time": Node("time"), "a": Node("a", "/a.py")})
    assert set(found) == set(analysis.INTERPRETER_BUILTINS)
    assert found == sorted(found)
