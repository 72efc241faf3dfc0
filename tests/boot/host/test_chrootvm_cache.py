"""The image cache of chrootvm: used by several processes, and with changed or damaged files."""

import hashlib
import os
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from testbed import assets
from tests.boot.chrootvm import COMMAND, DEADLINE, run

pytestmark = pytest.mark.boot

PROCESSES = 5


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


@pytest.mark.usefixtures("attempted_start")
def test_truncated_images_are_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    time.sleep(3)  # an image is not cached within 2 s of a change to its inputs
    words = (assets.busybox_root(), "--", "echo", "up")
    assert run(*words, folder=tmp_path) == (0, "up\n", "")
    images = {path: path.stat().st_size for path in tmp_path.rglob("*.img")}
    assert {path.parent.name for path in images} == {"images", "kernels", "qemu", "virtiofsd"}
    for path, size in images.items():
        os.truncate(path, size // 2)
    assert run(*words, folder=tmp_path) == (0, "up\n", "")
    assert {path: path.stat().st_size for path in images} == images


@pytest.mark.usefixtures("attempted_start")
def test_machine_boots_without_an_unsafe_cache_which_stays_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache, target = tmp_path / "cache/initrd", tmp_path / "target"
    target.mkdir(0o700)
    (target / f"{'0' * 32}.img").write_bytes(b"planted")
    cache.mkdir(0o700, parents=True)
    for name in ("images", "kernels", "virtiofsd", "templates"):
        (cache / name).symlink_to(target)
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache.parent))
    status, output, errors = run(assets.busybox_root(), "--", "echo", "up", folder=tmp_path)
    assert (status, output) == (0, "up\n")
    (message,) = errors.splitlines()
    assert message.startswith("chrootvm: going without a cache, which takes longer: cannot use ")
    assert [path.name for path in target.iterdir()] == [f"{'0' * 32}.img"]
