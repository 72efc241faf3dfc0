"""Who may import whom: read from the source, so that a wrong import fails before it is run."""

import ast
import os
from collections.abc import Iterator

import pytest

TOP = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

# What a bare interpreter has in memory anyway, or builds in: what /init may import for nothing.
FREE = {"_io", "_stat", "_thread", "builtins", "errno", "itertools", "marshal"}
FREE |= {"os", "posix", "posixpath", "stat", "sys", "time"}
# What a boot that asks for nothing special imports of those. `os` alone takes as long as the rest.
EVERY_BOOT = {"_stat", "errno", "posix", "sys", "time"}
# The only modules of the guest's side that the host may see.
SHARED = {"initrd", "initrd.cmdline", "initrd.command", "initrd.options", "initrd.quoting"}
SHARED |= {"initrd.record", "initrd.values"}
# What `ip=` asks for may cost something; nothing else in /init may import it at the top.
ON_REQUEST = "initrd.guest.network"


def sources(*tops: str) -> Iterator[str]:
    for top in tops:
        for folder, _, names in os.walk(os.path.join(TOP, top)):
            for name in names:
                if name.endswith(".py"):
                    yield os.path.relpath(os.path.join(folder, name), TOP)


def tree_of(path: str) -> ast.Module:
    with open(os.path.join(TOP, path), encoding="utf-8") as file:
        return ast.parse(file.read(), path)


def for_type_checkers(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")


def imports(node: ast.AST, *, deferred: bool = True) -> Iterator[str]:
    """Every module that `node` imports when it runs; with `deferred`, those of functions too."""
    if isinstance(node, ast.Import):
        yield from (name.name for name in node.names)
    elif isinstance(node, ast.ImportFrom):
        assert not node.level, f"line {node.lineno}: relative import; write the whole name"
        yield from (full_name(node.module or "", name.name) for name in node.names)
    for child in ast.iter_child_nodes(node):
        if for_type_checkers(child):
            continue
        if deferred or not isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef)):
            yield from imports(child, deferred=deferred)


def full_name(module: str, name: str) -> str:
    """`from initrd import cmdline` and `from initrd.cmdline import parse` both name a module."""
    path = os.path.join(TOP, *module.split("."), name)
    return f"{module}.{name}" if os.path.exists(f"{path}.py") or os.path.isdir(path) else module


def is_ours(module: str) -> bool:
    return module == "initrd" or module.startswith("initrd.")


SHARED_FILES = [f"{name.replace('.', '/')}.py" for name in SHARED if name != "initrd"]
GUEST = sorted([*sources("initrd/guest"), *SHARED_FILES])
GUEST += [path for path in ("initrd/init.py",) if os.path.exists(os.path.join(TOP, path))]
HOST = sorted(sources("initrd/host"))


@pytest.mark.parametrize("path", GUEST)
def test_the_guest_never_imports_the_host(path: str) -> None:
    ours = {name for name in imports(tree_of(path)) if is_ours(name)}
    assert {name for name in ours if not name.startswith("initrd.guest")} <= SHARED


@pytest.mark.parametrize("path", HOST)
def test_the_host_imports_only_what_both_sides_share(path: str) -> None:
    ours = {name for name in imports(tree_of(path)) if is_ours(name)}
    assert {name for name in ours if not name.startswith("initrd.host")} <= SHARED


@pytest.mark.parametrize("path", GUEST)
def test_the_guest_imports_only_what_the_interpreter_holds_anyway(path: str) -> None:
    module = path.removesuffix(".py").replace("/", ".")
    if module.startswith(ON_REQUEST):
        return
    foreign = {name for name in imports(tree_of(path), deferred=False) if not is_ours(name)}
    assert foreign <= FREE


def imported_by(*modules: str) -> set[str]:
    """What is in memory once these are imported, whatever functions import later."""
    found, left = set(), set(modules)
    while left:
        module = left.pop()
        found.add(module)
        if is_ours(module):
            path = module.replace(".", "/")
            path += "/__init__.py" if os.path.isdir(os.path.join(TOP, path)) else ".py"
            if os.path.exists(os.path.join(TOP, path)):
                left |= set(imports(tree_of(path), deferred=False)) - found
    return found


def test_every_boot_imports_only_what_is_cheap() -> None:
    found = imported_by("initrd.init", "initrd.guest.kernel")
    assert {module for module in found if not is_ours(module)} == EVERY_BOOT


@pytest.mark.parametrize("path", GUEST)
def test_what_costs_something_is_not_imported_at_the_top_of_the_guest(path: str) -> None:
    top = {name for name in imports(tree_of(path), deferred=False) if name.startswith(ON_REQUEST)}
    assert not top or path.startswith(ON_REQUEST.replace(".", "/"))


@pytest.mark.parametrize("path", [*GUEST, *HOST])
def test_a_module_opens_by_saying_what_it_does(path: str) -> None:
    assert ast.get_docstring(tree_of(path))


@pytest.mark.parametrize("path", sorted(sources("initrd")))
def test_a_file_stays_small(path: str) -> None:
    with open(os.path.join(TOP, path), encoding="utf-8") as file:
        assert len(file.readlines()) <= 200
