"""What the boot tests share: short directories for sockets, and small systems to boot."""

import os
import shutil
import tempfile
from collections.abc import Iterator

import pytest

from testbed import assets
from tests.boot import images


@pytest.fixture(scope="session", autouse=True)
def _built() -> None:
    assert os.path.exists(images.INIT), "dist/init is not there; run: make build"


@pytest.fixture(scope="session")
def vm_root() -> str:
    """What the fixture `vm` of our own plugin boots."""
    return assets.busybox_root()


@pytest.fixture(scope="module")
def shared_directory() -> Iterator[str]:
    """A directory for the boots that several tests of a module look at."""
    with tempfile.TemporaryDirectory(prefix="boot-") as path:  # short: it holds sockets
        yield path


@pytest.fixture
def directory() -> Iterator[str]:
    with tempfile.TemporaryDirectory(prefix="boot-") as path:
        yield path


def make_root(path: str, inspect: str = "") -> str:
    """Make a root directory whose target is /probe, which then runs the script `inspect`."""
    assets.make_busybox_root(path)
    shutil.copy(assets.probe(), f"{path}/probe")
    write(f"{path}/inspect", inspect)
    return path


def write(path: str, text: str, mode: int = 0o644) -> None:
    """Write a file, and the directories that it needs."""
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)
    os.chmod(path, mode)
