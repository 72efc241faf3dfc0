"""The end of a command in a real machine: remaining processes, late output, mounted disks."""

import os
import subprocess
from pathlib import Path

import pytest

from initrd.command import Command
from tests.boot.command_machine import run
from tests.boot.conftest import WARM_ONLY

pytestmark = [pytest.mark.boot, pytest.mark.usefixtures("start")]

LEAVE_PROCESSES_BEHIND = """
(trap 'echo stopped in time; exit' TERM; while :; do sleep 1; done) &
(trap '' TERM; echo stubborn is up; while :; do sleep 1; done) &
setsid sh -c 'trap "echo stopped elsewhere; exit" TERM; while :; do sleep 1; done' &
(kill -STOP $(exec sh -c 'echo $PPID'); echo never) &
sleep 2
echo over
"""


def sh(script: str) -> Command:
    return Command((b"sh", b"-c", os.fsencode(script)))


def test_remaining_processes_are_terminated_and_their_output_is_delivered(tmp_path: Path) -> None:
    ended = run(sh(LEAVE_PROCESSES_BEHIND), str(tmp_path))
    assert ended.message == "exit 0"
    lines = ended.stdout.decode().splitlines()
    assert lines[:2] == ["stubborn is up", "over"]
    assert sorted(lines[2:]) == ["stopped elsewhere", "stopped in time"]
    assert "initrd:" not in ended.console


@WARM_ONLY
def test_fork_bomb_is_ended_with_the_command(tmp_path: Path) -> None:
    script = "trap '' TERM; bomb() { bomb & bomb & }; bomb & exit 3"
    ended = run(sh(script), str(tmp_path))
    assert ended.message == "exit 3"


@WARM_ONLY
def test_process_in_sendsigs_omit_d_does_not_keep_the_machine_running(tmp_path: Path) -> None:
    protect = "mkdir -p /run/sendsigs.omit.d; sleep 1000 & echo $! >/run/sendsigs.omit.d/sleep"
    ended = run(sh(f"{protect}; seq 100000"), str(tmp_path))
    assert ended.message == "exit 0"
    assert ended.stdout.split()[-1] == b"100000"


def test_disk_is_clean_though_processes_kept_it_busy(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    subprocess.run(["mkfs.ext4", "-q", disk, "32M"], check=True)
    script = "mount /dev/vda /mnt; "
    script += "echo kept >/mnt/file; cd /mnt; exec 9>/mnt/open; sleep 1000 & mount | grep vda"
    ended = run(sh(script), str(tmp_path / "m"), extra_modules=("virtio_blk",), disks=(str(disk),))
    assert (ended.message, ended.stderr) == ("exit 0", b"")
    state = subprocess.run(["dumpe2fs", "-h", disk], check=True, capture_output=True, text=True)
    assert "needs_recovery" not in state.stdout
    subprocess.run(["e2fsck", "-fn", disk], check=True, capture_output=True)
    shown = subprocess.run(["debugfs", "-R", "cat file", disk], check=True, capture_output=True)
    assert shown.stdout == b"kept\n"
    assert "initrd:" not in ended.console
