"""The end of a machine: by which signal QEMU ends."""

import os
import time
from pathlib import Path

import pytest

from initrd.host.machine.launch import Launch
from initrd.host.machine.run import HostStreams, start_machine
from initrd.host.qemu.arch import find_arch
from initrd.host.qemu.argv import Hardware, Setup
from initrd.host.system.files import OpenFile
from initrd.host.system.loop import Loop
from initrd.host.virtiofsd.program import Virtiofsd

SCRIPT = """\
#!/bin/sh
trap 'touch "$0.ended"; exit 0' TERM
touch "$0.running"
while :; do sleep 0.01; done
"""


@pytest.mark.parametrize(
    ("arguments", "ends_itself"),
    [
        pytest.param((), False, id="chrootvm's machine"),
        pytest.param(("-drive", "file=disk.qcow2"), True, id="arguments of the user"),
    ],
)
def test_qemu_ends_itself_only_when_it_may_have_something_to_write(
    tmp_path: Path, arguments: tuple[str, ...], *, ends_itself: bool
) -> None:
    program = tmp_path / "qemu"
    program.write_text(SCRIPT)
    program.chmod(0o755)
    hardware = Hardware(find_arch("x86_64"), "tcg", memory=1 << 20, cpus=1)
    files = OpenFile("vmlinuz"), OpenFile("initrd.img")
    setup = Setup(str(program), hardware, *files, cmdline="", extra=arguments)
    launch = Launch(setup, Virtiofsd("/nowhere", "c"), "vmlinuz")
    with start_machine(launch, Loop(), HostStreams()):
        while not os.path.exists(f"{program}.running"):
            time.sleep(0.01)
    assert os.path.exists(f"{program}.ended") == ends_itself
