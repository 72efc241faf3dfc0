"""Several commands at the same time, with real processes, without a virtual machine."""

import json
import os
import resource
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from initrd import frames
from initrd.command import Commands, dump
from initrd.guest.command.jobs import JobServer
from tests.frames_host import FramesHost

TOP_DIRECTORY = os.path.abspath(f"{__file__}/../../../..")
USER = f"{os.getuid()}:{os.getgid()}".encode()
PATH = (f"PATH={os.environ['PATH']}".encode(),)


class Machine(FramesHost):
    """Runs shell scripts as this user."""

    pid = 0

    def sh(self, script: str, **changes: object) -> int:
        return self.run("sh", "-c", script, environ=PATH, user=USER, **changes)


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    """A guest's side that runs several commands, and the host's end of its port."""
    (tmp_path / "command").write_bytes(dump(Commands()))
    host_end, guest_end = socket.socketpair()
    guest_end.setblocking(False)
    ports = json.dumps({"initrd.control": guest_end.fileno()})
    process = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "tests.guest.command.unprivileged_session",
            ports,
            tmp_path / "command",
        ],
        cwd=TOP_DIRECTORY,
        pass_fds=[guest_end.fileno()],
    )
    guest_end.close()
    try:
        host = Machine(host_end)
        host.pid = process.pid
        host.expect_line("ready")
        host.expect_line("frames 2")
        yield host
    finally:
        host_end.close()
        process.wait(30)


def test_output_and_status_of_a_command(machine: Machine) -> None:
    number = machine.sh("echo out; echo err >&2; exit 3")
    assert machine.end(number) == "exit 3"
    assert machine.received[number, "stdout"] == b"out\n"
    assert machine.received[number, "stderr"] == b"err\n"
    assert machine.messages(number)[0] == "started"


class NoProcesses:
    """Processes of a machine that runs no command."""

    def receive_signals(self) -> int:
        return os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)


HOUR = 3_600_000_000  # microseconds


@pytest.mark.parametrize(
    ("offsets", "expected"),
    [
        pytest.param([0], [0], id="the first time is always set"),
        pytest.param([-400_000], [-400_000], id="the first time, backwards"),
        pytest.param([0, 5_000, -5_000], [0], id="about the same"),
        pytest.param([0, 900_000], [0, 900_000], id="behind"),
        pytest.param([0, -300_000], [0], id="ahead, or the message is late"),
        pytest.param([0, -HOUR], [0, -HOUR], id="far ahead"),
    ],
)
def test_clock_of_a_machine_that_runs_is_corrected_if_it_is_wrong(
    offsets: list[int], expected: list[int]
) -> None:
    host_end, guest_end = socket.socketpair()
    with host_end, guest_end:
        guest_end.setblocking(False)
        server = JobServer(guest_end.fileno(), NoProcesses(), None, None)  # type: ignore[arg-type]
        found: list[int] = []
        server.set_clock = lambda time_set: found.append(time_set - time.time_ns() // 1000)
        host = FramesHost(host_end)
        for offset in offsets:
            host.send(frames.MACHINE, f"time {time.time_ns() // 1000 + offset}")
            server._loop.run(lambda: False, 0.02)
    assert len(found) == len(expected)
    for offset, wanted in zip(found, expected, strict=True):
        assert abs(offset - wanted) < 800_000


def test_sixteen_commands_at_the_same_time(machine: Machine) -> None:
    numbers = [machine.sh(f"read line; echo {i} $line; exit {i}") for i in range(16)]
    for number in reversed(numbers):
        machine.send_stdin(number, b"%d\n" % number)
    for i, number in enumerate(numbers):
        assert machine.end(number) == f"exit {i}"
        assert machine.received[number, "stdout"] == b"%d %d\n" % (i, number)


def test_five_megabytes_through_one_command_while_another_one_stands_still(
    machine: Machine,
) -> None:
    data = os.urandom(5_000_000)
    still = machine.sh("cat /dev/zero")  # its output is not credited
    machine.without_credit.add((still, "stdout"))
    sleeper = machine.sh("sleep 1000")  # it does not read its input
    machine.send_data(sleeper, "stdin", bytes(frames.WINDOW))
    number = machine.sh("cat")
    machine.send_stdin(number, data)
    assert machine.end(number) == "exit 0"
    assert machine.received[number, "stdout"] == data
    machine.expect_output(still, bytes(frames.WINDOW))
    assert len(machine.received[still, "stdout"]) == frames.WINDOW


def test_all_output_written_before_the_end_is_delivered_at_the_speed_of_the_host(
    machine: Machine,
) -> None:
    number = machine.sh("head -c 60000 /dev/zero; head -c 60000 /dev/zero >&2; exit 7")
    assert machine.end(number) == "exit 7"
    slow = machine.sh(f"head -c {frames.WINDOW + 60000} /dev/zero; exit 8")
    machine.without_credit.add((slow, "stdout"))
    machine.expect_output(slow, bytes(frames.WINDOW))
    machine.without_credit.clear()
    machine.send_frame(
        frames.channel_of(slow, "stdout"), frames.CREDIT, frames.WINDOW.to_bytes(4, "little")
    )
    assert machine.end(slow) == "exit 8"
    assert len(machine.received[slow, "stdout"]) == frames.WINDOW + 60000


def test_processes_that_a_command_leaves_keep_running_and_do_not_hold_up_its_end(
    machine: Machine, tmp_path: Path
) -> None:
    mark = tmp_path / "mark"
    number = machine.sh(f"(trap '' PIPE; sleep 1; echo late; echo >{mark}) & echo early")
    assert machine.end(number, 0.9) == "exit 0"
    assert machine.received[number, "stdout"] == b"early\n"
    assert not mark.exists()
    deadline = time.monotonic() + 10
    while not mark.exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_command_on_a_terminal(machine: Machine) -> None:
    number = machine.sh("stty size; read line; echo got $line", tty=(0, 1, 2), size=(33, 77))
    machine.expect_output(number, b"33 77\r\n", "tty")
    machine.send_data(number, "tty", b"word\r")
    assert machine.end(number) == "exit 0"
    assert machine.received[number, "tty"].endswith(b"word\r\ngot word\r\n")


def test_resize_and_signals_reach_their_command_only(machine: Machine) -> None:
    other = machine.sh("trap 'echo other' USR1; echo up; read line")
    number = machine.sh("trap 'echo got; exit 5' USR1; echo up; while :; do sleep 0.05; done")
    for each in (other, number):
        machine.expect_output(each, b"up\n")
    machine.send(number, "signal 10")
    assert machine.end(number) == "exit 5"
    machine.send_stdin(other, b"\n")
    assert machine.end(other) == "exit 0"
    assert machine.received[other, "stdout"] == b"up\n"


def test_command_that_the_host_closes_gets_sighup_and_its_session_is_killed(
    machine: Machine, tmp_path: Path
) -> None:
    mark, pid_file = tmp_path / "hup", tmp_path / "pid"
    script = f"sleep 1000 & echo $! >{pid_file}; trap 'echo >{mark}; exit' HUP; echo up; wait"
    number = machine.sh(script)
    machine.expect_output(number, b"up\n")
    machine.close(number)
    deadline = time.monotonic() + 10
    while not mark.exists() or os.path.exists(f"/proc/{int(pid_file.read_text())}/exe"):
        assert time.monotonic() < deadline
        time.sleep(0.02)
        machine.read(0)
    assert machine.end(machine.sh("true")) == "exit 0"


def test_command_that_ignores_sighup_is_killed_after_the_grace_period(
    machine: Machine, tmp_path: Path
) -> None:
    pid_file = tmp_path / "pid"
    number = machine.sh(f"trap '' HUP TERM INT; echo $$ >{pid_file}; echo up; while :; do :; done")
    machine.expect_output(number, b"up\n")
    machine.close(number)
    began = time.monotonic()
    while os.path.exists(f"/proc/{int(pid_file.read_text())}"):
        assert time.monotonic() < began + 15
        time.sleep(0.05)
    assert time.monotonic() > began + 4


@pytest.mark.parametrize("other_group", [False, True], ids=["own-group", "other-group"])
def test_processes_that_fork_all_the_time_are_killed(
    machine: Machine, tmp_path: Path, *, other_group: bool
) -> None:
    code = (
        "import os, sys, time\n"
        "if sys.argv[2]: os.fork() and time.sleep(1000); os.setpgid(0, 0)\n"
        "if os.fork(): time.sleep(1000)\n"
        "end = time.monotonic() + 5\n"
        "while time.monotonic() < end:\n"
        "  if os.fork(): os._exit(0)\n"  # the process is replaced by its child
        "os.mkdir(sys.argv[1])\n"
    )
    words = (sys.executable, "-c", code, f"{tmp_path}/escaped", "x" if other_group else "")
    number = machine.run(*words, environ=PATH, user=USER)
    machine.expect(number, "started")
    time.sleep(0.5)
    machine.send(number, "kill")
    assert machine.end(number) == "signal 9"
    time.sleep(6)
    assert not (tmp_path / "escaped").exists()


@pytest.mark.parametrize(
    ("argv", "changes", "message"),
    [
        (("no-such-program",), {}, "exit 127"),
        (("/",), {}, "exit 126"),
        (("true",), {"cwd": b"/no/such"}, r"refused cannot enter the directory /no/such: No such"),
        (("true",), {"user": b"eve"}, r"refused cannot run the command as eve: there is no user"),
    ],
)
def test_command_that_cannot_be_started(
    machine: Machine, argv: tuple[str, ...], changes: dict[str, object], message: str
) -> None:
    number = machine.run(*argv, environ=PATH, **{"user": USER, **changes})
    assert machine.end(number).startswith(message)
    assert machine.end(machine.sh("exit 4")) == "exit 4"


def test_invalid_command_file_is_refused_and_the_machine_goes_on(machine: Machine) -> None:
    number = machine.run_content(b"initrd-command 9\0end\0")
    assert machine.end(number).startswith("failed cannot understand the command: it begins with")
    assert machine.end(machine.sh("exit 4")) == "exit 4"


def test_memory_does_not_grow_with_the_number_of_commands(machine: Machine) -> None:
    sizes = []
    for _ in range(2):
        for _ in range(200):
            machine.end(machine.run("true", environ=PATH, user=USER))
        status = Path(f"/proc/{machine.pid}/status").read_text(encoding="ascii")
        sizes.append(int(status.partition("RssAnon:")[2].split()[0]))
    assert sizes[1] < sizes[0] + 500, "kilobytes"


CONTROL_9 = frames.channel_of(9, frames.CONTROL)


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (frames.encode_frame(CONTROL_9, 9), "frames of the kind 9 are unknown to version 2"),
        (frames.encode_frame(CONTROL_9, frames.RUN, b"x"), "command 9 has come out of order"),
        (frames.encode_frame(CONTROL_9, frames.DATA, b"x"), "no command 9 with a channel control"),
        (frames.encode_frame(7, frames.DATA, b"x"), "there is no channel 7"),
        (frames.encode_frame(0, frames.DATA), "a frame of the kind 2 has 0 bytes"),
        (frames.encode_credit(0, 1), "more credit than was used"),
        (
            b"".join(frames.encode_frame(8, frames.DATA, b"x" * 65536) for _ in range(9)),
            "more bytes than allowed",
        ),
    ],
    ids=["kind", "order", "command", "channel", "empty", "credit", "window"],
)
def test_frames_that_the_guest_does_not_know_end_the_machine_with_a_message(
    machine: Machine, data: bytes, why: str
) -> None:
    running = machine.sh("sleep 1000")
    machine.expect(running, "started")
    if why.startswith("more bytes"):
        stdin = frames.channel_of(running, "stdin").to_bytes(4, "little")
        data = data.replace(frames.channel_of(running, "control").to_bytes(4, "little"), stdin)
    machine.send_bytes(data)
    message = machine.expect(0, "failed")
    assert "the guest cannot understand the host" in message
    assert why in message
    assert machine.end(running) == "signal 15"
    assert machine.expect(0, "stopped")


def test_stop_ends_all_commands_and_refuses_new_ones(machine: Machine) -> None:
    polite = machine.sh("trap 'echo bye; exit 6' TERM; echo up; while :; do sleep 0.05; done")
    stubborn = machine.sh("trap '' TERM; echo up; while :; do sleep 0.05; done")
    for number in (polite, stubborn):
        machine.expect_output(number, b"up\n")
    machine.send(0, "stop")
    late = machine.sh("true")
    assert machine.end(late) == "failed the machine is about to end"
    assert machine.end(polite) == "exit 6"
    assert machine.received[polite, "stdout"] == b"up\nbye\n"
    assert machine.end(stubborn) == "signal 9"
    machine.expect(0, "stopped")
    machine.send(0, "bye")
    while machine.read(1):
        pass


def test_command_that_uses_up_the_descriptors_is_refused_and_others_go_on(
    machine: Machine,
) -> None:
    resource.prlimit(machine.pid, resource.RLIMIT_NOFILE, (200, 200))
    numbers = []
    while True:
        numbers.append(machine.sh("read line"))
        message = machine.expect(numbers[-1], "started", "failed")
        if message != "started":
            break
        assert len(numbers) < 200
    assert "Too many open files" in message
    for number in numbers[:-1]:
        machine.send_stdin(number, b"\n")
        assert machine.end(number) == "exit 0"
    assert machine.end(machine.sh("echo again")) == "exit 0"
