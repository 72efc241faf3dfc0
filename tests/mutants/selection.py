"""Which test files are about a module: by its name, and by what imports it."""

import re
from functools import cache
from pathlib import Path

_IMPORT = re.compile(r"^\s*from ((?:initrd|tests)[\w.]*) import \(?([\w, ]+)", re.MULTILINE)
_DOTTED = re.compile(r"\b((?:initrd|tests)(?:\.\w+)+)")
_OTHER_MARKS = re.compile(r"pytest\.mark\.(boot|built|tools)\b")
MAX_FILES = 6  # for one module: a mutant is to take a second or two
# Tests of whole boots and starts, for the modules of a folder: in addition.
_OF_ALL = {
    "initrd/guest": ["tests/guest/test_init.py", "tests/guest/command/test_session.py"],
    "initrd/host": ["tests/host/test_vm.py", "tests/host/machine/test_launch.py"],
}


def select_tests(module: Path, top: Path) -> list[str]:
    """Return the test files of a module, relative to `top`, the most specific ones first.

    They have its name, or import it themselves, or by a helper, or they import what imports it.
    """
    name = ".".join(module.with_suffix("").parts)
    by_name = [path for path in _unit_tests(top) if _is_named_for(path, module)]
    direct = [path for path in _unit_tests(top) if name in _names_in(top / path)]
    by_helper = [path for path in _unit_tests(top) if name in _names_below(path, top)]
    users = _users(name, top)
    of_users = {
        path: len(users & (_names_in(top / path) | _names_below(path, top)))
        for path in _unit_tests(top)
    }
    indirect = sorted(filter(of_users.get, of_users), key=lambda path: -of_users[path])
    found = dict.fromkeys([*by_name, *direct, *by_helper, *indirect])
    of_all = _OF_ALL.get("/".join(module.parts[:2]), [])
    return list(dict.fromkeys([*map(str, found)][:MAX_FILES] + of_all))


def _is_named_for(path: Path, module: Path) -> bool:
    """Return whether a test is in the folder of the module, below `tests`, and has its name."""
    folder = Path("tests", *module.parts[1:-1])
    return path.parent == folder and path.stem.startswith(f"test_{module.stem}")


@cache
def _unit_tests(top: Path) -> tuple[Path, ...]:
    files = sorted(path.relative_to(top) for path in top.glob("tests/**/test_*.py"))
    own = Path("tests/mutants")
    return tuple(
        path
        for path in files
        if path.parts[:2] != ("tests", "boot")
        and path.parent != own
        and not _OTHER_MARKS.search((top / path).read_text(encoding="utf-8"))
    )


def _names_below(path: Path, top: Path) -> frozenset[str]:
    """Return the names in the modules of `tests` that a test uses, also those that it starts."""
    helpers = [f"{name.replace('.', '/')}.py" for name in _names_in(top / path)]
    used = [top / helper for helper in helpers if helper.startswith("tests/")]
    return frozenset().union(*(_names_in(helper) for helper in used if helper.is_file()))


@cache
def _users(name: str, top: Path) -> frozenset[str]:
    """Return the names of the modules that import a module."""
    files = [path.relative_to(top) for path in top.glob("initrd/**/*.py")]
    names = {".".join(path.with_suffix("").parts): top / path for path in files}
    return frozenset(user for user, path in names.items() if name in _names_in(path))


@cache
def _names_in(path: Path) -> frozenset[str]:
    text = path.read_text(encoding="utf-8")
    names = {
        f"{package}.{name.strip()}"
        for package, rest in _IMPORT.findall(text)
        for name in rest.split(",")
    }
    return frozenset({*names, *_DOTTED.findall(text)})
