"""Modules compiled to CPython's tables of frozen modules."""

import marshal
import os
import subprocess
import sys
from pathlib import Path
from types import CodeType

from initrd.freeze import frozen_modules

SOURCE = '''"""Documented."""
def f():
    """Documented too."""
    assert False
    return {"b", "a", "c"} & frozenset(("x", "y", "z"))
'''


def compile_source(directory: Path, name: str = "a.b", file: str = "b.py") -> frozen_modules.Module:
    (directory / file).write_text(SOURCE)
    return frozen_modules.Module(name, str(directory / file))


def test_compiled_module_has_no_docstrings_assertions_or_build_directory(tmp_path: Path) -> None:
    data = compile_source(tmp_path).data
    assert b"Documented" not in data
    assert os.fsencode(tmp_path) not in data
    code = marshal.loads(data)
    assert isinstance(code, CodeType)
    assert code.co_filename == "a/b.py"
    namespace: dict[str, object] = {}
    exec(code, namespace)
    assert namespace["f"]() == set()  # type: ignore[operator]


def test_package_is_recognised_by_its_init_file(tmp_path: Path) -> None:
    package = compile_source(tmp_path, "a", "__init__.py")
    assert package.is_package
    assert package.filename == "a/__init__.py"
    assert not compile_source(tmp_path).is_package


def test_frozen_table_lists_each_module_and_a_terminator(tmp_path: Path) -> None:
    module = compile_source(tmp_path)
    lines = list(frozen_modules.frozen_table("modules", [module], {"a.b": 640}))
    assert lines[0] == "const struct _frozen modules[] = {"
    assert '.name = "a.b"' in lines[1]
    assert ".code = initrd_modules_data + 640" in lines[1]
    assert f".size = {len(module.data)}" in lines[1]
    assert lines[2] == "\t{0},\n};"


def test_inittab_names_unusual_initialisation_functions() -> None:
    text = "\n".join(frozen_modules.inittab(["_warnings", "marshal", "sys", "time"]))
    assert '{"_warnings", _PyWarnings_Init}' in text
    assert '{"marshal", PyMarshal_Init}' in text
    assert '{"sys", NULL}' in text
    assert '{"time", PyInit_time}' in text
    assert "extern PyObject *NULL" not in text


def test_compiled_modules_do_not_depend_on_the_source_directory(tmp_path: Path) -> None:
    results = []
    for name in ("one", "another place"):
        (tmp_path / name).mkdir()
        results.append(compile_in_subprocess(tmp_path / name))
    assert results[0] == results[1]


def compile_in_subprocess(directory: Path) -> bytes:
    """Compile in another process with PYTHONHASHSEED=0, as the build does."""
    (directory / "b.py").write_text(SOURCE)
    program = "import sys; from initrd.freeze.frozen_modules import Module; "
    program += "sys.stdout.buffer.write(Module('a.b', sys.argv[1]).data)"
    command = [sys.executable, "-c", program, str(directory / "b.py")]
    environ = {**os.environ, "PYTHONHASHSEED": "0"}
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, env=environ).stdout
