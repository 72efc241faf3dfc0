"""The cache of images: many chrootvm at once with an empty one, and a kernel that changes."""

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

MANY = 8


def test_many_at_once_start_from_an_empty_cache(tmp_path: Path) -> None:
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path)}
    words = [*COMMAND, "--memory", "256M", assets.busybox_root(), "--", "echo"]
    time.sleep(3)  # an image is not kept when what it is made of was written just now
    many = [
        subprocess.Popen(
            [*words, f"{number}"],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for number in range(MANY)
    ]
    ended = [(*one.communicate(timeout=DEADLINE), one.returncode) for one in many]
    assert ended == [(f"{number}\n", "", 0) for number in range(MANY)]
    kept = [path for path in tmp_path.rglob("*") if path.is_file()]
    images = [path for path in kept if path.suffix == ".img"]
    assert images
    for image in images:  # whole, and each content once
        assert image.stem == hashlib.blake2b(image.read_bytes(), digest_size=16).hexdigest()
    assert [path for path in kept if path.suffix == ".tmp"] == []


def test_an_image_follows_what_it_was_made_of(
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
    assert "initrd.control" in errors
