"""The same tree gives the same dist/init, wherever it lies."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

pytestmark = pytest.mark.built

TOP = Path(__file__).parents[2]
SOURCES = ("Makefile", "constraints.txt", "initrd")


def test_another_directory_gives_the_same_bytes(tmp_path: Path) -> None:
    place = tmp_path / "with/a/longer/name"
    place.mkdir(parents=True)
    for name in SOURCES:
        copy(TOP / name, place / name)
    make(place)
    assert (place / "dist/init").read_bytes() == (TOP / "dist/init").read_bytes()


def copy(source: Path, target: Path) -> None:
    if source.is_dir():
        ignored = shutil.ignore_patterns("__pycache__", "*.so")
        shutil.copytree(source, target, ignore=ignored)
    else:
        shutil.copy(source, target)


def make(place: Path) -> None:
    """Build there, with the virtual environment that is here."""
    venv = TOP / "build/venv"
    environ = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    command = ["make", "-s", "-C", place, "-o", venv / ".installed", f"VENV={venv}", "dist/init"]
    subprocess.run(command, check=True, env=environ, stdout=subprocess.DEVNULL)
