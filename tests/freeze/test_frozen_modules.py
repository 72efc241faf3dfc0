"""Modules compiled to tables."""

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


def compiled(directory: Path, name: str = "a.b", file: str = "b.py") -> frozen_modules.Module:
    (directory / file).write_text(SOURCE)
    return frozen_modules.Module(name, str(directory / file))


def test_neither_documentation_nor_assertions_nor_the_directory_are_kept(tmp_path: Path) -> None:
    data = compiled(tmp_path).data
    assert b"Documented" not in data
    assert os.fsencode(tmp_path) not in data
    code = marshal.loads(data)
    assert isinstance(code, CodeType)
    assert code.co_filename == "a/b.py"
    found: dict[str, object] = {}
    exec(code, found)
    assert found["f"]() == set()  # type: ignore[operator]


def test_a_package_is_told_by_its_file(tmp_path: Path) -> None:
    package = compiled(tmp_path, "a", "__init__.py")
    assert package.is_package
    assert package.filename == "a/__init__.py"
    assert not compiled(tmp_path).is_package


def test_the_table_names_every_module_and_ends(tmp_path: Path) -> None:
    module = compiled(tmp_path)
    lines = list(frozen_modules.table("those", [module], {"a.b": 640}))
    assert lines[0] == "const struct _frozen those[] = {"
    assert '.name = "a.b"' in lines[1]
    assert ".code = initrd_modules_data + 640" in lines[1]
    assert f".size = {len(module.data)}" in lines[1]
    assert lines[2] == "\t{0},\n};"


def test_built_in_modules_with_unusual_functions() -> None:
    text = "\n".join(frozen_modules.inittab(["_warnings", "marshal", "sys", "time"]))
    assert '{"_warnings", _PyWarnings_Init}' in text
    assert '{"marshal", PyMarshal_Init}' in text
    assert '{"sys", NULL}' in text
    assert '{"time", PyInit_time}' in text
    assert "extern PyObject *NULL" not in text


def test_two_directories_give_the_same_bytes(tmp_path: Path) -> None:
    made = []
    for name in ("one", "another place"):
        (tmp_path / name).mkdir()
        made.append(compile_apart(tmp_path / name))
    assert made[0] == made[1]


def compile_apart(directory: Path) -> bytes:
    """Compile in a process of its own, as the build does."""
    (directory / "b.py").write_text(SOURCE)
    program = "import sys; from initrd.freeze.frozen_modules import Module; "
    program += "sys.stdout.buffer.write(Module('a.b', sys.argv[1]).data)"
    command = [sys.executable, "-c", program, str(directory / "b.py")]
    environ = {**os.environ, "PYTHONHASHSEED": "0"}
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, env=environ).stdout
