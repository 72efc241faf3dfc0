"""Fixtures of the boot tests: directories with short names, and root directories to boot."""

import os
import shutil
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Iterator

import pytest

from testbed import assets
from tests.boot import images
from tests.boot.chrootvm import used_templates
from tests.boot.start_chrootvm import WARM

# Files whose tests take longer than others, and how many other tests take as long as all of theirs.
LONG_FILES = {
    "guest/test_debian.py": 20,
    "host/test_chrootvm_kernel.py": 50,
    "host/test_demo.py": 10,
    "roots/test_fuse_unions.py": 25,
    "roots/test_tmpfs.py": 15,
    "service/test_named.py": 30,
    "template/test_warm.py": 30,
    "template/test_warm_failures.py": 50,
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the files that take longest, so that at the end no worker runs one alone."""
    names = {item: os.path.relpath(item.path, os.path.dirname(__file__)) for item in items}
    sizes = {**Counter(names.values()), **LONG_FILES}
    items.sort(key=lambda item: names[item].startswith("..") or -sizes[names[item]])


@pytest.fixture(scope="session", autouse=True)
def _default_signals() -> None:
    """Undo ignored signals, such as SIGHUP under nohup(1): chrootvm would inherit and keep them."""
    for number in (signal.SIGHUP, signal.SIGQUIT, signal.SIGTERM):
        if signal.getsignal(number) == signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)


@pytest.fixture(scope="session", autouse=True)
def _require_built_init() -> None:
    assert os.path.exists(images.INIT), f"{images.INIT} is not there; run: make build"


@pytest.fixture(scope="session", autouse=True)
def _own_cache() -> Iterator[None]:
    """Give chrootvm a cache and a state directory that begin empty; templates are large."""
    with tempfile.TemporaryDirectory(prefix="boot-") as path, pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", path)
        patch.setenv("XDG_STATE_HOME", f"{path}/state")
        yield


# For tests of what does not depend on the kind of start: what a command and chrootvm do when the
# command runs. A machine of a template is there in a fifth of the time.
WARM_ONLY = pytest.mark.parametrize("attempted_start", ["warm"], indirect=True)


@pytest.fixture(params=("cold", "warm"))
def attempted_start(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Start commands in this way; a warm start may fail before there is a machine."""
    if request.param == "warm":
        monkeypatch.setenv(WARM, "1")
    return str(request.param)


@pytest.fixture
def start(attempted_start: str) -> Iterator[str]:
    """Start commands in this way: in machines that boot, or in machines of a template.

    Warm, the test has to use a template: chrootvm boots where it cannot. There are none for other
    architectures: then it has to boot.
    """
    began = time.time_ns()
    yield attempted_start
    if attempted_start == "warm":
        used = used_templates(os.environ["XDG_CACHE_HOME"], began)
        assert bool(used) == (assets.architecture() == assets.HOST), f"templates: {used}"


@pytest.fixture(scope="session")
def vm_root() -> str:
    """Root directory that the fixture `vm` of initrd.host.pytest_plugin boots."""
    return assets.busybox_root()


@pytest.fixture(scope="module")
def shared_directory() -> Iterator[str]:
    """A directory for boots whose results several tests of a module check."""
    with tempfile.TemporaryDirectory(prefix="boot-") as path:
        yield path


@pytest.fixture
def directory() -> Iterator[str]:
    """A directory for the files of one test's boots.

    `tmp_path` may be too long: the path of a UNIX socket is at most 107 bytes (unix(7)).
    """
    with tempfile.TemporaryDirectory(prefix="boot-") as path:
        yield path


def make_root(path: str, inspect: str = "") -> str:
    """Make a root directory with busybox, /probe, and the script /inspect that /probe runs."""
    assets.make_busybox_root(path)
    shutil.copy(assets.probe(), f"{path}/probe")
    write(f"{path}/inspect", inspect)
    return path


def write(path: str, text: str, mode: int = 0o644) -> None:
    """Write a file; make its parent directories where they are missing."""
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)
    os.chmod(path, mode)
