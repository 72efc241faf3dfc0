"""A command in overlay and FUSE union roots: writes are kept, and disks are clean afterwards."""

import os
import subprocess
from pathlib import Path

import pytest

from initrd.command import Command
from testbed import assets
from tests.boot.command_machine import run

pytestmark = [pytest.mark.boot, pytest.mark.usefixtures("start")]


def sh(script: str) -> Command:
    return Command((b"sh", b"-c", os.fsencode(script)))


def test_overlay_disk_is_clean_after_power_off(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    subprocess.run(["mkfs.ext4", "-q", disk, "64M"], check=True)
    for boot, script in enumerate(("echo kept >/file; sleep 1000 &", "cat /file")):
        ended = run(
            sh(script),
            str(tmp_path / f"m{boot}"),
            append="overlay_root=vda",
            extra_modules=("virtio_blk", "overlay"),
            disks=(str(disk),),
        )
        assert (ended.message, ended.stderr) == ("exit 0", b"")
        assert "initrd:" not in ended.console
        state = subprocess.run(["dumpe2fs", "-h", disk], check=True, capture_output=True, text=True)
        assert "needs_recovery" not in state.stdout
        subprocess.run(["e2fsck", "-fn", disk], check=True, capture_output=True)
    assert ended.stdout == b"kept\n"


@pytest.mark.parametrize("union", ["fuse-overlayfs", "unionfs-fuse"])
def test_fuse_daemon_serves_the_root_until_the_machine_is_off(union: str, tmp_path: Path) -> None:
    ended = run(
        sh("echo kept >/file; sync; cat /file; trap '' TERM; sleep 1000 & sleep 1001 & exit 3"),
        str(tmp_path),
        root=assets.debian_root(),
        append=f"overlay_root=ram initrd.union={union}",
        extra_modules=("fuse",),
        memory="512M",
    )
    assert (ended.message, ended.stdout, ended.stderr) == ("exit 3", b"kept\n", b"")
    assert "initrd:" not in ended.console
    assert "warning" not in " ".join(ended.messages)
