"""A machine with a script in the place of QEMU: its console, and by which signal QEMU ends."""

import os
import sys
import time
from pathlib import Path

import pytest

from initrd.host.machine.launch import Launch
from initrd.host.machine.run import HostStreams, start_machine
from initrd.host.qemu.arch import find_arch
from initrd.host.qemu.argv import Disk, Hardware, Setup
from initrd.host.system.files import OpenFile
from initrd.host.system.hosterror import HostError
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

# As QEMU: it reports on QMP that it has stopped the machine, which has printed something before.
STOPPING = f"""\
#!{sys.executable}
import json, os, re, socket, sys, time
(number,) = re.findall(r"socket,id=qmp,fd=([0-9]+)", " ".join(sys.argv))
os.write(1, b"output of the guest\\n")
data = {{"device": "disk0", "action": "stop", "reason": "No space left on device"}}
messages = {{"QMP": {{}}}}, {{"return": {{}}}}, {{"event": "BLOCK_IO_ERROR", "data": data}}
with socket.socket(fileno=int(number)) as connection:
    assert b"qmp_capabilities" in connection.recv(1000)
    for message in messages:
        connection.sendall(json.dumps(message).encode() + b"\\r\\n")
    time.sleep(60)
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


def with_disk(launch: Launch, path: Path, *, writable: bool) -> Launch:
    path.write_bytes(b"data")
    return launch.replace(setup=launch.setup.replace(disks=(Disk(str(path), writable=writable),)))


def test_a_machine_whose_disk_cannot_be_written_ends_with_an_error(tmp_path: Path) -> None:
    launch = with_disk(launch_of(tmp_path / "qemu", STOPPING), tmp_path / "disk", writable=True)
    with start_machine(launch, Loop(), HostStreams()) as machine:
        assert machine.wait(20)
        with pytest.raises(HostError) as raised:
            machine.ending()
        assert machine.disk_error is raised.value
    assert str(raised.value) == (
        f"the disk {tmp_path}/disk cannot be written: No space left on device; "
        "the guest's latest changes are lost\ntry: again with more room there"
    )
    assert machine.log.text == "output of the guest\n"


@pytest.mark.parametrize("disk", ["none", "read-only"])
def test_a_machine_without_a_writable_disk_has_no_monitor(tmp_path: Path, disk: str) -> None:
    launch = launch_of(tmp_path / "qemu", '#!/bin/sh\necho "$@"\n')
    if disk == "read-only":
        launch = with_disk(launch, tmp_path / "disk", writable=False)
    with start_machine(launch, Loop(), HostStreams()) as machine:
        assert machine.wait(20)
        machine.ending()
    assert "qmp" not in machine.log.text
