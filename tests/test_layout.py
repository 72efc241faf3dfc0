"""Imports between modules, read from the sources; sizes of folders and files."""

import ast
import os
from collections import Counter
from collections.abc import Iterator

import pytest

TOP = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

# Modules that a bare interpreter has in memory or builds in: /init may import them at the top.
BARE_INTERPRETER = {"_io", "_stat", "_thread", "builtins", "errno", "itertools", "marshal"}
BARE_INTERPRETER |= {"os", "posix", "posixpath", "stat", "sys", "time"}

# Modules that every boot imports. Importing `os` would take as long as all of these together.
EVERY_BOOT_FOREIGN = {"_stat", "errno", "posix", "sys", "time"}
EVERY_BOOT = {
    "initrd",
    "initrd.cmdline",
    "initrd.errors",
    "initrd.guest",
    "initrd.guest._syscalls",
    "initrd.guest.execute",
    "initrd.guest.failure",
    "initrd.guest.frozen",
    "initrd.guest.handoff",
    "initrd.guest.insmod",
    "initrd.guest.kernel",
    "initrd.guest.log",
    "initrd.guest.plan",
    "initrd.guest.rmtree",
    "initrd.guest.steps",
    "initrd.guest.switchroot",
    "initrd.guest.virtiofs",
    "initrd.guest.wait",
    "initrd.init",
    "initrd.options",
    "initrd.record",
    "initrd.text",
}
# Modules that a boot which runs a command imports in addition.
COMMAND_BOOT_FOREIGN: set[str] = set()
COMMAND_BOOT = {
    "initrd.command",
    "initrd.guest.command",
    "initrd.guest.command.control",
    "initrd.guest.command.loop",
    "initrd.guest.command.ports",
    "initrd.guest.command.processes",
    "initrd.guest.command.session",
    "initrd.guest.command.shutdown",
    "initrd.guest.command.spawn",
    "initrd.guest.command.streams",
    "initrd.guest.command.supervise",
    "initrd.guest.command.users",
}

# A module may import modules of its own layer's folder and of the layers below it, and no others.
# Folders on one line do not import each other.
HOST_LAYERS = (
    ("initrd.host",),  # the entry points: chrootvm, vm, doctor, pytest_plugin
    ("initrd.host.service",),
    ("initrd.host.command", "initrd.host.report"),
    ("initrd.host.template",),
    ("initrd.host.machine",),
    ("initrd.host.qemu",),
    ("initrd.host.image", "initrd.host.virtiofsd"),
    ("initrd.host.system",),
    ("initrd",),  # what both sides share
)
GUEST_LAYERS = (
    ("initrd.guest.roots", "initrd.guest.command", "initrd.guest.network"),
    ("initrd.guest",),
    ("initrd",),
)
MAX_FILES = 20  # of a folder
# File names that two modules have: their common subject.
SHARED_NAMES = {
    "cmdline": "the kernel command line: parsed for both sides, written on the host",
    "session": "a command's session: in the guest, and on the host",
    "loop": "the loop around poll(2): of PID 1, and of the host's programs",
    "steps": "steps of a plan: those of every boot, and those of roots and layers",
}


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
    """Yield the modules that `node` imports when it runs; with `deferred`, in functions too."""
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
    """Return `module.name` if that is a module (`from initrd import cmdline`), else `module`."""
    path = os.path.join(TOP, *module.split("."), name)
    return f"{module}.{name}" if os.path.exists(f"{path}.py") or os.path.isdir(path) else module


def is_project_module(module: str) -> bool:
    return module == "initrd" or module.startswith("initrd.")


def package_of(module: str) -> str:
    """Return the folder of a module, as a package."""
    return module.rpartition(".")[0] or module


def module_name(path: str) -> str:
    return path.removesuffix(".py").replace("/", ".").removesuffix(".__init__")


SHARED = {
    "initrd",
    *(
        module_name(f"initrd/{name}")
        for name in os.listdir(os.path.join(TOP, "initrd"))
        if name.endswith(".py") and name != "init.py"
    ),
}
SOURCES = sorted(path for path in sources("initrd") if not path.endswith("__init__.py"))
GUEST = [path for path in SOURCES if path.startswith("initrd/guest/")]
HOST = [path for path in SOURCES if path.startswith("initrd/host/")]
SHARED_FILES = [path for path in SOURCES if module_name(path) in SHARED]
IN_INIT = [*GUEST, *SHARED_FILES, "initrd/init.py"]


def project_imports(path: str, *, deferred: bool = True) -> set[str]:
    """Return the modules of this project that a file imports; with `deferred`, in functions too."""
    return {name for name in imports(tree_of(path), deferred=deferred) if is_project_module(name)}


def allowed_packages(module: str, layers: tuple[tuple[str, ...], ...]) -> set[str]:
    """Return the packages that a module may import from, by the layer that it is in."""
    package = package_of(module)
    level = next(number for number, layer in enumerate(layers) if package in layer)
    return {package, *(name for layer in layers[level + 1 :] for name in layer)}


def forbidden_imports(
    path: str, layers: tuple[tuple[str, ...], ...], *, deferred: bool
) -> set[str]:
    """Return the imports of a file that its layer does not permit."""
    packages = allowed_packages(module_name(path), layers)
    found = project_imports(path, deferred=deferred)
    return {
        name
        for name in found
        if name not in packages
        and package_of(name) not in packages - {"initrd"}
        and name not in SHARED
    }


@pytest.mark.parametrize("path", HOST)
def test_host_modules_import_only_their_own_folder_and_lower_layers(path: str) -> None:
    assert forbidden_imports(path, HOST_LAYERS, deferred=True) == set()


@pytest.mark.parametrize("path", GUEST)
def test_guest_modules_import_only_their_own_folder_and_lower_layers(path: str) -> None:
    assert forbidden_imports(path, GUEST_LAYERS, deferred=False) == set()


@pytest.mark.parametrize("path", IN_INIT)
def test_init_never_imports_host_modules(path: str) -> None:
    assert not {name for name in project_imports(path) if name.startswith("initrd.host")}


@pytest.mark.parametrize("path", SHARED_FILES)
def test_shared_modules_import_only_shared_modules(path: str) -> None:
    assert project_imports(path) <= SHARED


@pytest.mark.parametrize("path", IN_INIT)
def test_init_imports_at_the_top_only_modules_of_a_bare_interpreter(path: str) -> None:
    if path.startswith("initrd/guest/network/"):
        return  # imported only for `ip=`
    foreign = {
        name for name in imports(tree_of(path), deferred=False) if not is_project_module(name)
    }
    assert foreign <= BARE_INTERPRETER


def imported_by(*modules: str) -> set[str]:
    """Return the modules that importing these imports, without imports inside functions."""
    found, pending = set(), set(modules)
    while pending:
        module = pending.pop()
        found.add(module)
        if not is_project_module(module):
            continue
        if "." in module:
            pending |= {package_of(module)} - found
        path = module.replace(".", "/")
        path += "/__init__.py" if os.path.isdir(os.path.join(TOP, path)) else ".py"
        if os.path.exists(os.path.join(TOP, path)):
            pending |= set(imports(tree_of(path), deferred=False)) - found
    return found


def split_by_origin(modules: set[str]) -> tuple[set[str], set[str]]:
    own = {module for module in modules if is_project_module(module)}
    return own, modules - own


def test_every_boot_imports_the_listed_modules_only() -> None:
    found = imported_by("initrd.init", "initrd.guest.kernel")
    assert split_by_origin(found) == (EVERY_BOOT, EVERY_BOOT_FOREIGN)


def test_a_command_boot_imports_the_listed_modules_in_addition() -> None:
    plain = imported_by("initrd.init", "initrd.guest.kernel")
    found = imported_by("initrd.guest.command.session") - plain
    assert split_by_origin(found) == (COMMAND_BOOT, COMMAND_BOOT_FOREIGN)


TOOLS = sorted(sources("bench", "tools", "demo", "testbed"))


@pytest.mark.parametrize("path", TOOLS)
def test_tools_import_nothing_from_the_tests(path: str) -> None:
    assert not {name for name in imports(tree_of(path)) if name.split(".")[0] == "tests"}


def test_imports_form_no_circle() -> None:
    pending = {module_name(path): project_imports(path) for path in SOURCES}
    packages = {name for name in SHARED if os.path.isdir(os.path.join(TOP, name))}
    while pending:
        leaves = {
            name for name, needed in pending.items() if not needed & pending.keys() - packages
        }
        assert leaves, f"modules that import each other: {sorted(pending)}"
        pending = {name: needed for name, needed in pending.items() if name not in leaves}


@pytest.mark.parametrize("path", [*HOST, "scripts/chrootvm"])
def test_host_prints_only_by_the_module_that_escapes_names(path: str) -> None:
    """The functions are print_output() and MessageWriter in initrd/host/system/terminal.py."""
    used = {
        ast.unparse(node)
        for node in ast.walk(tree_of(path))
        if isinstance(node, (ast.Name, ast.Attribute))
    }
    assert used & {"print", "sys.stderr"} == set()


def files_of(folder: str) -> list[str]:
    """Return the files of a folder without those of a build."""
    names = os.listdir(os.path.join(TOP, folder))
    paths = [f"{folder}/{name}" for name in names if not name.endswith(".so")]
    return [path for path in paths if os.path.isfile(os.path.join(TOP, path))]


def test_a_folder_has_at_most_20_files() -> None:
    folders = {os.path.dirname(path) for path in sources("initrd", "tests", "bench", "testbed")}
    too_large = {folder for folder in folders if len(files_of(folder)) > MAX_FILES}
    assert too_large == set()


def test_modules_of_one_name_have_one_subject() -> None:
    names = Counter(os.path.basename(path) for path in SOURCES)
    twice = {name.removesuffix(".py") for name, count in names.items() if count > 1}
    assert twice == SHARED_NAMES.keys()


@pytest.mark.parametrize("path", sorted(sources("initrd")))
def test_a_module_has_a_docstring(path: str) -> None:
    assert ast.get_docstring(tree_of(path))
