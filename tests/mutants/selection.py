"""Which test files are about a module: those with its name, and those that import it."""

import re
from functools import cache
from pathlib import Path

_IMPORT = re.compile(r"^\s*from ((?:initrd|tests)[\w.]*) import \(?([\w, ]+)", re.MULTILINE)
_DOTTED = re.compile(r"\b((?:initrd|tests)(?:\.\w+)+)")
_OTHER_MARKS = re.compile(r"pytest\.mark\.(boot|built|tools)\b")
MAX_FILES = 6  # for one module: a mutant is to take a second or two


def select_tests(module: Path, top: Path) -> list[str]:
    """Return the test files of a module, relative to `top`: those with its name first."""
    name = ".".join(module.with_suffix("").parts)
    by_name = [path for path in _unit_tests(top) if _is_named_for(path, module)]
    direct = [path for path in _unit_tests(top) if name in _names_in(top / path)]
    by_helper = [path for path in _unit_tests(top) if name in _names_below(path, top)]
    found = dict.fromkeys([*by_name, *direct, *by_helper])
    return [str(path) for path in found][:MAX_FILES]


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
def _names_in(path: Path) -> frozenset[str]:
    text = path.read_text(encoding="utf-8")
    names = {
        f"{package}.{name.strip()}"
        for package, rest in _IMPORT.findall(text)
        for name in rest.split(",")
    }
    return frozenset({*names, *_DOTTED.findall(text)})
