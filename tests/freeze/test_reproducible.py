"""The same sources give the same dist/init in every directory."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

pytestmark = pytest.mark.built

TOP = Path(__file__).parents[2]
SOURCES = ("Makefile", "constraints.txt", "initrd")


def test_init_does_not_depend_on_the_build_directory(tmp_path: Path) -> None:
    directory = tmp_path / "with/a/longer/name"
    directory.mkdir(parents=True)
    for name in SOURCES:
        copy_sources(TOP / name, directory / name)
    build_init(directory)
    assert (directory / "dist/init").read_bytes() == (TOP / "dist/init").read_bytes()


def copy_sources(source: Path, target: Path) -> None:
    if source.is_dir():
        ignored = shutil.ignore_patterns("__pycache__", "*.so")
        shutil.copytree(source, target, ignore=ignored)
    else:
        shutil.copy(source, target)


def build_init(directory: Path) -> None:
    """Build in `directory`, with the virtual environment of this checkout."""
    venv = TOP / "build/venv"
    environ = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    command = ["make", "-s", "-C", directory, "dist/init"]
    command += ["-o", venv / ".installed", f"VENV={venv}"]
    subprocess.run(command, check=True, env=environ, stdout=subprocess.DEVNULL)
