"""The image cache of chrootvm: concurrent use of an empty cache, and a changed module."""

import hashlib
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from testbed import assets
from tests.boot.chrootvm import COMMAND, DEADLINE, run

pytestmark = pytest.mark.boot

PROCESSES = 8


@pytest.mark.usefixtures("start")
def test_concurrent_chrootvm_processes_fill_an_empty_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    words = [*COMMAND, "--memory", "256M", assets.busybox_root(), "--", "echo"]
    time.sleep(3)  # an image is not cached within 2 s of a change to its inputs
    processes = [
        subprocess.Popen(
            [*words, f"{number}"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for number in range(PROCESSES)
    ]
    results = [
        (*process.communicate(timeout=DEADLINE), process.returncode) for process in processes
    ]
    assert results == [(f"{number}\n", "", 0) for number in range(PROCESSES)]
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    images = [path for path in files if path.suffix == ".img"]
    assert images
    for image in images:  # complete, and named by the digest of its content
        assert image.stem == hashlib.blake2b(image.read_bytes(), digest_size=16).hexdigest()
    assert [path for path in files if path.suffix == ".tmp"] == []


@pytest.mark.usefixtures("attempted_start")
def test_a_changed_module_makes_a_new_image(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    kernel = assets.kernel("bookworm")
    modules = tmp_path / "modules"
    shutil.copytree(kernel.modules, modules, symlinks=True)
    words = (
        "--kernel",
        kernel.image,
        "--modules",
        str(modules),
        assets.busybox_root(),
        "--",
        "true",
    )
    assert run(*words, folder=tmp_path)[0] == 0
    (console,) = modules.rglob("virtio_console.ko")
    console.write_bytes(b"\x7fELF, and no module all the same")
    status, _, errors = run(*words, folder=tmp_path)
    assert status == 125
    # The new image holds the broken virtio_console, so the command's ports do not appear.
    assert "initrd.control" in errors
