"""A root directory of another architecture than the host's: `make boot` boots one of them."""

import subprocess
from pathlib import Path

import pytest

from testbed import assets
from tests.boot import images, machine
from tests.boot.chrootvm import chrootvm

pytestmark = pytest.mark.boot


def test_a_root_for_arm64_runs_a_command_after_a_warm_start_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("GUEST_ARCH", "aarch64")
    script = "uname -m; cat; echo error >&2; exit 7"
    words = ("--warm", "--verbose", assets.busybox_root(), "--", "sh", "-c", script)
    with chrootvm(*words, folder=tmp_path, stdin=subprocess.PIPE) as session:
        assert session.process.stdin
        session.process.stdin.write(b"input\n")
        session.process.stdin.close()
        session.process.stdin = None
        status, output, errors = session.finish()
        assert session.leftovers() == []
    assert (status, output) == (7, "aarch64\ninput\n")
    assert "error\n" in errors
    assert "there are no templates for aarch64" in errors


@pytest.mark.every_architecture
def test_an_image_with_modules_boots_the_shared_root(directory: str) -> None:
    kernel = assets.kernel("bookworm")
    append = "rootfs=rootfs overlay_root=ram panic=-1 init=/bin/sh -- -c"
    script = '"echo on $(uname -m); grep overlay /proc/mounts; poweroff -f"'
    image = images.make(kernel, f"{directory}/image", "--cmdline", append)
    shares = (machine.Share("rootfs", assets.busybox_root()),)
    boot = machine.boot(
        machine.Machine(kernel.image, f"{append} {script}", image, shares), directory
    )
    assert f"on {assets.architecture()}\n" in boot.console
    assert "overlay / overlay rw" in boot.console
