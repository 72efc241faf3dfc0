"""Compile the modules of /init to CPython's tables of frozen modules.

    frozen_modules.py ANALYSIS_JSON DIRECTORY

writes DIRECTORY/modules.bin (the marshalled code of all modules) and DIRECTORY/modules.c (their
offsets, the order of imports, and the table of built-in modules). With PYTHONHASHSEED=0 the same
sources give the same bytes; otherwise the order of elements in marshalled frozen sets differs.
"""

import json
import marshal
import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

OPTIMIZE = 2  # as python -OO: no assertions, no docstrings
# Modules whose initialisation function is not named PyInit_MODULE; None: it has no such function.
INIT_FUNCTIONS: dict[str, str | None] = {
    "_imp": "PyInit__imp",
    "_warnings": "_PyWarnings_Init",
    "builtins": None,
    "marshal": "PyMarshal_Init",
    "sys": None,
}


class Module:
    """A compiled module; `data` is its marshalled code."""

    def __init__(self, name: str, path: str) -> None:
        self.name = name
        self.is_package = os.path.basename(path) == "__init__.py"
        source = Path(path).read_bytes()
        code = compile(source, self.filename, "exec", dont_inherit=True, optimize=OPTIMIZE)
        self.data = marshal.dumps(code)

    @property
    def filename(self) -> str:
        """The file name in tracebacks, without directories of the build machine."""
        return self.name.replace(".", "/") + ("/__init__.py" if self.is_package else ".py")


def frozen_table(name: str, modules: Iterable[Module], offsets: dict[str, int]) -> Iterable[str]:
    """Yield the lines of one array of `struct _frozen`."""
    yield f"const struct _frozen {name}[] = {{"
    for module in modules:
        yield (
            f'\t{{.name = "{module.name}", .code = initrd_modules_data + {offsets[module.name]}, '
            f".size = {len(module.data)}, .is_package = {module.is_package:d}}},"
        )
    yield "\t{0},\n};"


def import_list(name: str, names: Iterable[str]) -> Iterable[str]:
    """Yield the lines of one array of module names, in the order of import."""
    yield f"const char *const {name}[] = {{"
    yield from (f'\t"{module}",' for module in names)
    yield "\tNULL,\n};"


def inittab(names: Iterable[str]) -> Iterable[str]:
    """Yield the lines of CPython's array of built-in modules, replaced with a static libpython."""
    functions = {name: INIT_FUNCTIONS.get(name, f"PyInit_{name}") for name in names}
    yield from (
        f"extern PyObject *{function}(void);" for function in functions.values() if function
    )
    yield "struct _inittab _PyImport_Inittab[] = {"
    for name, function in functions.items():
        yield f'\t{{"{name}", {function or "NULL"}}},'
    yield "\t{0},\n};"


def write(analysis: Any, directory: Path) -> None:
    """Write modules.bin and modules.c into `directory`."""
    start = [Module("__main__", analysis["entry"])]
    start += [Module(name, path) for name, path in analysis["start"]]
    start_names = {module.name for module in start}
    rest = [Module(name, path) for name, path in analysis["all"] if name not in start_names]
    offsets, blob = {}, b""
    for module in (*start, *rest):
        offsets[module.name] = len(blob)
        blob += module.data
    lines = ["#include <Python.h>", "extern const unsigned char initrd_modules_data[];"]
    lines += frozen_table("initrd_modules", start, offsets)
    lines += frozen_table("initrd_all_modules", [*start, *rest], offsets)
    lines += import_list("initrd_boot_imports", analysis["boot_imports"])
    lines += import_list("initrd_session_imports", analysis["session_imports"])
    lines += ["#ifdef INITRD_STATIC", *inittab(analysis["builtins"]), "#endif", ""]
    (directory / "modules.bin").write_bytes(blob)
    (directory / "modules.c").write_text("\n".join(lines))


if __name__ == "__main__":
    write(json.loads(Path(sys.argv[1]).read_text()), Path(sys.argv[2]))
