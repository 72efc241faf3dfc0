"""A machine with a script in the place of QEMU: its console, and by which signal QEMU ends."""

import os
import sys
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

# As QEMU: it does not wait when it writes, and drops what the pipe does not take.
PRINTING = f"""\
#!{sys.executable}
import os, sys, time
os.set_blocking(1, False)
def put(data):
    try:
        os.write(1, data)
    except BlockingIOError:
        pass
put(b"begin\\n")
time.sleep(0.5)
for number in range(100_000):
    put(b"%06d\\n" % number)
while byte := os.read(0, 1):
    put(byte.upper())
    if byte == b".":
        break
"""


def launch_of(program: Path, script: str, *arguments: str) -> Launch:
    """Return how to start a script in the place of QEMU."""
    program.write_text(script)
    program.chmod(0o755)
    hardware = Hardware(find_arch("x86_64"), "tcg", memory=1 << 20, cpus=1)
    files = OpenFile("vmlinuz"), OpenFile("initrd.img")
    setup = Setup(str(program), hardware, *files, cmdline="", extra=arguments)
    return Launch(setup, Virtiofsd("/nowhere", "c"), "vmlinuz")


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
    launch = launch_of(program, SCRIPT, *arguments)
    with start_machine(launch, Loop(), HostStreams()):
        while not os.path.exists(f"{program}.running"):
            time.sleep(0.01)
    assert os.path.exists(f"{program}.ended") == ends_itself


def test_console_has_all_output_though_it_is_read_late(tmp_path: Path) -> None:
    launch = launch_of(tmp_path / "qemu", PRINTING)
    with start_machine(launch, Loop(), HostStreams()) as machine:
        machine.loop.run(lambda: machine.log.size > 0, 10)
        time.sleep(1)  # the pipe is full then
        os.write(machine.keyboard, b"keys.")
        assert machine.wait(20)
        machine.ending()
    numbers = "".join(f"{number:06}\n" for number in range(100_000))
    assert machine.log.text == f"begin\n{numbers}KEYS."


@pytest.mark.parametrize("arguments", [(), ("-drive", "x")], ids=["SIGKILL", "SIGTERM"])
def test_a_machine_whose_output_is_not_read_ends_at_once(
    tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    launch = launch_of(tmp_path / "qemu", PRINTING, *arguments)
    with start_machine(launch, Loop(), HostStreams()) as machine:
        machine.loop.run(lambda: machine.log.size > 0, 10)
        time.sleep(1)
        begin = time.monotonic()
    assert time.monotonic() - begin < 1.5


def test_a_machine_that_prints_nothing_has_an_end_of_output(tmp_path: Path) -> None:
    launch = launch_of(tmp_path / "qemu", "#!/bin/sh\nexit 0\n")
    with start_machine(launch, Loop(), HostStreams()) as machine:
        assert machine.wait(10)
        begin = time.monotonic()
        machine.ending()
    assert time.monotonic() - begin < 1.5


@pytest.mark.parametrize(
    ("output", "halted"),
    [
        pytest.param("reboot: System halted", True, id="without a timestamp"),
        pytest.param("[    4.174946] reboot: System halted\\r\\n", True, id="with one"),
        pytest.param("reboot: System halted\\nnext line\\n", False, id="not the last line"),
        pytest.param("reboot: Power down\\n", False, id="switched off"),
    ],
)
def test_a_machine_ends_when_its_kernel_has_halted(
    tmp_path: Path, output: str, *, halted: bool
) -> None:
    launch = launch_of(tmp_path / "qemu", f"#!/bin/sh\nprintf '{output}'; exec sleep 60\n")
    with start_machine(launch, Loop(), HostStreams()) as machine:
        assert machine.wait(10 if halted else 2) is halted
        assert machine.has_halted is halted
        begin = time.monotonic()
        if halted:
            assert not machine.ending().failure
        assert time.monotonic() - begin < 1.5


def test_a_machine_that_prints_after_it_has_halted_goes_on(tmp_path: Path) -> None:
    script = "#!/bin/sh\necho 'reboot: System halted'; sleep 0.3; echo more; exec sleep 60\n"
    launch = launch_of(tmp_path / "qemu", script)
    with start_machine(launch, Loop(), HostStreams()) as machine:
        assert not machine.wait(2)
