"""Root in the guest floods the console and the ports: chrootvm stays in control, and small.

Times are not tested: a test fails when chrootvm has not ended after a minute. The commands start
from a template, because a flood takes all processors, and the kind of start is of no importance.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from initrd.frames import CLOSE, DATA, channel_of, encode_frame
from initrd.host import vm as interface
from initrd.host.system.hosterror import HostError
from testbed import assets
from tests.boot import flood as flood_program
from tests.boot.chrootvm import Session, chrootvm, run
from tests.boot.conftest import WARM_ONLY

pytestmark = [pytest.mark.boot, pytest.mark.usefixtures("attempted_start"), WARM_ONLY]
TIME_LIMIT = 6  # seconds, for a machine to start and to flood
BOOT_TIME_LIMIT = 10  # seconds, for a machine to boot and to flood
HANG = 60.0  # seconds
MOST_MEMORY = 200 << 10  # KiB of chrootvm
TOOL = "/run/mnt/tool/flood"


@pytest.fixture(scope="module", autouse=True)
def _template() -> None:
    """Make the template, so that no time limit of a test has to be long enough for that."""
    with machine() as running:
        assert running.run("true").status == 0


def share() -> tuple[str, ...]:
    return ("--memory", "256M", "--mount-ro", "tool", flood_program.directory())


def flood(text: str, port: str = "initrd.control", times: str = "") -> str:
    """Return the line of a shell that floods a port."""
    return f"printf '{text}' | {TOOL} {port} {times}"


def signal_until_it_ends(session: Session, number: int) -> None:
    """Send a signal every half second: the first ones are forwarded to the command."""
    deadline = time.monotonic() + HANG
    while session.process.poll() is None:
        assert time.monotonic() < deadline, f"chrootvm does not act on signal {number}"
        session.process.send_signal(number)
        time.sleep(0.5)


def most_memory(session: Session) -> int:
    """Return the largest amount of memory that chrootvm has used so far, in KiB."""
    status = Path(f"/proc/{session.process.pid}/status").read_text(encoding="utf-8")
    return int(status.partition("VmHWM:")[2].split()[0])


@contextmanager
def running_flood(line: str, folder: Path, *options: str, **streams: int) -> Iterator[Session]:
    """Run a command that prints `up`, floods, and ignores signals."""
    script = f"trap '' TERM INT HUP; echo up; {line}; sleep 1000"
    words = (*share(), *options, assets.busybox_root(), "--", "sh", "-c", script)
    with chrootvm(*words, folder=folder, **streams) as session:
        yield session


ENDLESS = {
    "warnings": flood("warning x\\n"),
    "unknown messages": flood("x\\n"),
    "console": "while :; do printf 'Out of memory: Killed process 1 ('; done >/dev/console",
    "output": "yes",
}


@pytest.mark.parametrize("line", ENDLESS.values(), ids=ENDLESS)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_end_a_machine_that_floods(directory: str, line: str, number: int) -> None:
    with running_flood(line, Path(directory)) as session:
        session.expect("up\n")
        for _ in range(20):
            os.read(session.process.stdout.fileno(), 1 << 20) if line == "yes" else time.sleep(0.1)
        assert most_memory(session) < MOST_MEMORY
        signal_until_it_ends(session, number)
        assert session.process.returncode == -number


@pytest.mark.parametrize("line", ENDLESS.values(), ids=ENDLESS)
def test_timeout_ends_a_machine_that_floods_while_nobody_reads(directory: str, line: str) -> None:
    reader, writer = os.pipe()
    try:
        words = ("--timeout", f"{TIME_LIMIT}", "--verbose")
        with running_flood(line, Path(directory), *words, stdout=writer, stderr=writer) as session:
            assert session.process.wait(TIME_LIMIT + HANG) == 124
    finally:
        os.close(reader)
        os.close(writer)


REFUSED = {
    "ends of unknown streams": (flood("eof a1\\neof a2\\n"), "it has ended 'a1', which is no"),
    "starts": (flood("started\\n"), "it has sent 'started' twice"),
    "ends": (flood("eof stdout 0\\n"), "it has sent 'eof stdout' twice"),
    "numbers": (flood("eof stdout -1\\n"), "'-1' is not a number"),
    "frames": (flood("frames 2\\n"), "it has sent 'frames' in a machine for one command"),
    "a message without an end": (flood("xxxxxxxxxxxxxxxx"), "a message has more than 65536 bytes"),
}


@pytest.mark.parametrize(("line", "why"), REFUSED.values(), ids=REFUSED)
def test_message_that_is_not_allowed_ends_the_session(directory: str, line: str, why: str) -> None:
    words = (*share(), assets.busybox_root(), "--", "sh", "-c", f"{line}; sleep 1000")
    status, _, errors = run(*words, folder=Path(directory))
    assert status == 125
    assert errors.startswith(f"chrootvm: cannot understand the guest: {why}")
    assert errors.count("\n") == 1


def test_forged_end_after_forged_kills_is_read_at_once(directory: str) -> None:
    end = flood("eof stdout 0\\neof stderr 0\\nsignal 9\\n", times="once")
    forge = "yes 'Out of memory: Killed process 1 (' | head -n 10000 | tr -d '\\n' >/dev/console"
    words = (*share(), assets.busybox_root(), "--", "sh", "-c", f"{forge}; {end}; sleep 1000")
    status, _, errors = run(*words, folder=Path(directory))
    assert (status, errors) == (137, "")


INIT = "while :; do printf '[    1.1] Kernel panic - not syncing: Attempted to kill init! '; done"


@pytest.mark.parametrize("number", [signal.SIGTERM, 0])
def test_console_that_floods_and_is_not_read_holds_up_no_end(directory: str, number: int) -> None:
    words = (
        "--timeout",
        "600" if number else f"{BOOT_TIME_LIMIT}",
        "--memory",
        "256M",
        assets.busybox_root(),
    )
    reader, writer = os.pipe()
    try:
        streams = {"stdout": writer, "stderr": writer}
        init = ("/bin/sh", "-c", INIT)
        with chrootvm(*words, *init, folder=Path(directory), **streams) as session:
            if number:
                time.sleep(BOOT_TIME_LIMIT)
                signal_until_it_ends(session, number)
            else:
                session.process.wait(BOOT_TIME_LIMIT + HANG)
            assert session.process.returncode == (-number or 124)
    finally:
        os.close(reader)
        os.close(writer)


PROGRAMS = {
    "INIT": ("/bin/sh", "-c", f"echo up; {INIT}"),
    "COMMAND": ("--", "sh", "-c", "echo up; yes"),
}


@pytest.mark.parametrize("program", PROGRAMS.values(), ids=PROGRAMS)
def test_escape_key_ends_a_flood_on_a_terminal_that_shows_nothing(
    directory: str, program: tuple[str, ...]
) -> None:
    controller, terminal = os.openpty()
    streams = {"stdin": terminal, "stdout": terminal, "stderr": terminal}
    words = ("--memory", "256M", assets.busybox_root(), *program)
    with chrootvm(*words, folder=Path(directory), **streams) as session:
        output, deadline = b"", time.monotonic() + 3 * HANG
        while b"up" not in output:
            assert time.monotonic() < deadline
            output += os.read(controller, 1 << 16)
        time.sleep(2)  # the terminal's buffer is full, and is read no more
        os.write(controller, b"\x1d\x1d\x1d")
        assert session.process.wait(HANG) == 137
    os.close(controller)
    os.close(terminal)


def frame(command: int, name: str, kind: int, payload: bytes = b"") -> str:
    """Return a frame, as printf(1) writes it."""
    data = encode_frame(channel_of(command, name), kind, payload)
    return "".join(f"\\{byte:03o}" for byte in data)


@contextmanager
def machine() -> Iterator[interface.Machine]:
    tool = flood_program.directory()
    root = assets.busybox_root()
    options = {"memory": "256M", "mount_ro": {"tool": tool}, "warm": True}
    with interface.boot(root, text=True, **options) as running:
        yield running


FRAMES = {
    "noise": "noise",
    "an unknown command": frame(900, "control", CLOSE),
    "data on stdin": frame(1, "stdin", DATA, b"x"),
    "a message of the machine without an end": frame(0, "control", DATA, b"x" * 300),
}


@pytest.mark.parametrize("text", FRAMES.values(), ids=FRAMES)
def test_flood_of_wrong_frames_ends_the_machine_with_one_error(text: str) -> None:
    with pytest.raises(HostError, match="cannot understand the guest"), machine() as running:
        waiting = running.popen("sleep", "1000")
        running.popen("sh", "-c", flood(text))
        with pytest.raises(HostError, match=r"cannot understand the guest|machine has ended"):
            waiting.wait(HANG)


def test_commands_go_on_beside_a_flood_of_the_console() -> None:
    with machine() as running:
        console = running.popen("sh", "-c", "yes >/dev/console")
        for _ in range(5):
            assert running.run("echo", "x", timeout=HANG).stdout == "x\n"
        console.kill()
        console.wait(HANG)


def test_flood_of_messages_of_the_machine_holds_up_no_command_or_is_one_error() -> None:
    """PID 1 ends the machine when the host gives credit for what PID 1 has not sent."""
    try:
        with machine() as running:
            running.popen("sh", "-c", flood(frame(0, "control", DATA, b"x\n" * 100)))
            running.run("echo", "x", timeout=HANG)
    except HostError as error:
        assert error.what in ("the machine has ended", "cannot understand the guest")


@pytest.mark.parametrize("name_of_flood", ["frames", "console"])
def test_named_machine_that_floods_ends_on_signals(
    directory: str, monkeypatch: pytest.MonkeyPatch, name_of_flood: str
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", directory)
    lines = {
        "frames": flood(frame(0, "control", DATA, b"warning x\\n")),
        "console": ENDLESS["console"],
    }
    with running_flood(lines[name_of_flood], Path(directory), "--name", "one") as session:
        session.expect("up\n")
        time.sleep(2)
        signal_until_it_ends(session, signal.SIGTERM)


BLOCKED = """
import os, subprocess, sys
from initrd.host.system.hosterror import HostError
from initrd.host import vm
try:
    vm.run(sys.argv[1], ["sh", "-c", sys.argv[2]], stderr=2, timeout=6, memory="256M",
           mount_ro={"tool": sys.argv[3]}, warm=True)
except vm.TimeoutExpired:
    os._exit(7)
"""


def test_timeout_of_the_python_interface_with_a_blocked_standard_error() -> None:
    tool = flood_program.directory()
    words = (assets.busybox_root(), flood("warning x\\n"), tool)
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    try:
        while True:
            os.write(writer, bytes(4096))
    except BlockingIOError:
        os.set_blocking(writer, True)
    top = os.path.abspath(f"{__file__}/../../../..")
    command = [sys.executable, "-c", BLOCKED, *words]
    with subprocess.Popen(command, cwd=top, stderr=writer) as process:
        assert process.wait(TIME_LIMIT + HANG) == 7
    os.close(reader)
    os.close(writer)
