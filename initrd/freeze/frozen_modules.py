"""Compile the modules of /init to the tables that CPython imports frozen modules from.

    frozen_modules.py ANALYSIS_JSON DIRECTORY

writes DIRECTORY/modules.bin (marshalled code, one module after the other) and DIRECTORY/modules.c
(which module is where, in which order to import them, and the built-in modules). Same sources, same
bytes: run it with PYTHONHASHSEED=0, because the order in frozen sets is written down.
"""

import json
import marshal
import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

OPTIMIZE = 2  # neither assertions nor docstrings
# Built-in modules whose function does not have the usual name; None for those without any.
UNUSUAL: dict[str, str | None] = {
    "_imp": "PyInit__imp",
    "_warnings": "_PyWarnings_Init",
    "builtins": None,
    "marshal": "PyMarshal_Init",
    "sys": None,
}


class Module:
    """One compiled module, as it lies in modules.bin."""

    def __init__(self, name: str, path: str) -> None:
        self.name = name
        self.is_package = os.path.basename(path) == "__init__.py"
        source = Path(path).read_bytes()
        code = compile(source, self.filename, "exec", dont_inherit=True, optimize=OPTIMIZE)
        self.data = marshal.dumps(code)

    @property
    def filename(self) -> str:
        """The file as tracebacks name it: below no directory of the build machine."""
        return self.name.replace(".", "/") + ("/__init__.py" if self.is_package else ".py")


def table(name: str, modules: Iterable[Module], offsets: dict[str, int]) -> Iterable[str]:
    """Yield the lines of one array of `struct _frozen`."""
    yield f"const struct _frozen {name}[] = {{"
    for module in modules:
        yield (
            f'\t{{.name = "{module.name}", .code = initrd_modules_data + {offsets[module.name]}, '
            f".size = {len(module.data)}, .is_package = {module.is_package:d}}},"
        )
    yield "\t{0},\n};"


def order(name: str, names: Iterable[str]) -> Iterable[str]:
    """Yield the lines of one array of modules to import, in this order."""
    yield f"const char *const {name}[] = {{"
    yield from (f'\t"{module}",' for module in names)
    yield "\tNULL,\n};"


def inittab(names: Iterable[str]) -> Iterable[str]:
    """Yield the lines of the array of built-in modules: a static libpython leaves it to us."""
    functions = {name: UNUSUAL.get(name, f"PyInit_{name}") for name in names}
    yield from (
        f"extern PyObject *{function}(void);" for function in functions.values() if function
    )
    yield "struct _inittab _PyImport_Inittab[] = {"
    for name, function in functions.items():
        yield f'\t{{"{name}", {function or "NULL"}}},'
    yield "\t{0},\n};"


def write(analysis: Any, directory: Path) -> None:
    """Write both files."""
    start = [Module("__main__", analysis["entry"])]
    start += [Module(name, path) for name, path in analysis["start"]]
    have = {module.name for module in start}
    rest = [Module(name, path) for name, path in analysis["all"] if name not in have]
    offsets, blob = {}, b""
    for module in (*start, *rest):
        offsets[module.name] = len(blob)
        blob += module.data
    lines = ["#include <Python.h>", "extern const unsigned char initrd_modules_data[];"]
    lines += table("initrd_modules", start, offsets)
    lines += table("initrd_all_modules", [*start, *rest], offsets)
    lines += order("initrd_order", analysis["order"])
    lines += order("initrd_session_order", analysis["session_order"])
    lines += ["#ifdef INITRD_STATIC", *inittab(analysis["builtins"]), "#endif", ""]
    (directory / "modules.bin").write_bytes(blob)
    (directory / "modules.c").write_text("\n".join(lines))


if __name__ == "__main__":
    write(json.loads(Path(sys.argv[1]).read_text()), Path(sys.argv[2]))
