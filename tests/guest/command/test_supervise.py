"""Supervision of a command with real processes, pipes and terminals, without a virtual machine."""

import hashlib
import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from initrd.command import Command, dump
from initrd.guest.command.supervise import GRACE_PERIOD, format_status, stop_processes
from tests.command_host import Host

Start = Callable[..., Host]
TOP_DIRECTORY = os.path.abspath(f"{__file__}/../../../..")
# Signals 32 and 33 are internal to glibc. Its posix_spawn(3) leaves them ignored in the child, and
# so in this process, for instance when `make` has started it.
INTERNAL_SIGNALS = 1 << 31 | 1 << 32
ENVIRONMENT = (f"PATH={os.environ['PATH']}".encode(),)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Return a function that starts a shell script under supervision and returns the host's end."""
    with ExitStack() as stack:

        def start(script: str, **changes: object) -> Host:
            user = f"{os.getuid()}:{os.getgid()}".encode()
            argv = (b"sh", b"-c", os.fsencode(script))
            command = Command(argv, ENVIRONMENT, user=user).replace(**changes)
            (tmp_path / "command").write_bytes(dump(command))
            ends = {name: socket.socketpair() for name in command.ports}
            for host_end, guest_end in ends.values():
                guest_end.setblocking(False)
                stack.enter_context(host_end)
            ports = {name: guest_end.fileno() for name, (_, guest_end) in ends.items()}
            arguments = [json.dumps(ports), str(tmp_path / "command")]
            process = subprocess.Popen(
                [sys.executable, "-m", "tests.guest.command.unprivileged_session", *arguments],
                cwd=TOP_DIRECTORY,
                pass_fds=ports.values(),
            )
            stack.callback(process.wait)
            stack.callback(process.kill)
            for _, guest_end in ends.values():
                guest_end.close()
            sockets = {
                name.removeprefix("initrd."): host_end for name, (host_end, _) in ends.items()
            }
            return Host(sockets, dict.fromkeys(sockets, b""))

        yield start


def test_standard_output_standard_error_and_status_are_separate(start: Start) -> None:
    host = start("echo out; echo err >&2; exit 3")
    assert host.last_message() == "exit 3"
    assert (host.received["stdout"], host.received["stderr"]) == (b"out\n", b"err\n")
    assert host.messages[:2] == ["ready", "started"]
    assert sorted(host.messages[2:]) == ["closed stdin", "eof stderr 4", "eof stdout 4", "exit 3"]


def test_five_megabytes_through_stdin_and_stdout_are_unchanged(start: Start) -> None:
    data = random.Random(1).randbytes(5_000_000)
    host = start("cat")
    host.send_stdin(data)
    assert host.last_message() == "exit 0"
    output = host.received["stdout"]
    assert hashlib.sha256(output).digest() == hashlib.sha256(data).digest()


@pytest.mark.parametrize("size", [0, 1, 4095, 4096, 4097, 65535, 65536, 65537, 131072])
def test_command_reads_end_of_input_after_the_last_byte(start: Start, size: int) -> None:
    host = start("wc -c; cat")
    host.send_stdin(b"x" * size)
    assert host.last_message() == "exit 0"
    assert host.received["stdout"].split() == [str(size).encode()]


def test_eof_message_may_arrive_before_the_bytes_of_stdin(start: Start) -> None:
    host = start("cat")
    host.expect("started")
    host.send("eof stdin 6")
    host.write_port("stdin", b"abc")
    host.expect_output("stdout", b"abc")
    host.write_port("stdin", b"def")
    assert host.last_message() == "exit 0"
    assert host.received["stdout"] == b"abcdef"


@pytest.mark.parametrize("time_of_host", ["", "time 1700000000000000"])
def test_messages_before_the_command_is_started_are_for_the_command(
    start: Start, time_of_host: str
) -> None:
    host = start("cat; kill -STOP $$; echo continued")
    if time_of_host:
        host.send(time_of_host)
    host.send("eof stdin 3")
    host.send("signal 10")  # has its default action: it ends the command
    host.write_port("stdin", b"abc")
    assert host.last_message() == "signal 10"


def test_closing_the_stdin_port_on_the_host_ends_standard_input(start: Start) -> None:
    host = start("cat; echo over")
    host.write_port("stdin", b"abc")
    host.sockets.pop("stdin").close()
    assert host.last_message() == "exit 0"
    assert host.received["stdout"] == b"abcover\n"


def test_eof_message_for_an_output_does_not_wait_for_the_end_of_the_command(start: Start) -> None:
    host = start("echo x; exec >&-; read line; exit 4")
    assert host.expect("eof") == "stdout 2"
    host.send_stdin(b"go on\n")
    assert host.last_message() == "exit 4"


def test_closed_message_is_sent_when_the_command_closes_stdin(start: Start) -> None:
    host = start("exec <&-; echo closed; sleep 0.1; echo x")
    assert host.expect("closed") == "stdin"
    assert host.last_message() == "exit 0"


def test_closed_message_from_the_host_gives_the_writer_sigpipe(start: Start) -> None:
    host = start("exec yes")
    host.expect_output("stdout", b"y\n" * 10)
    host.send("closed stdout")
    host.expect("signal")
    assert host.message("signal") == "13"
    assert host.message("eof") == "stderr 0"


@pytest.mark.parametrize(
    ("script", "ended"),
    [
        pytest.param("echo up; exec sleep 60", "signal 1", id="HUP has its default action"),
        pytest.param("trap '' HUP; echo up; cat; exec yes", "exit 1", id="HUP ignored"),
    ],
)
def test_closed_tty_message_hangs_up_the_terminal(start: Start, script: str, ended: str) -> None:
    host = start(script, tty=(0, 1, 2))
    host.expect_output("tty", b"up")
    host.send("closed tty")
    host.send("resize 10 20")
    host.expect(ended.split(" ", maxsplit=1)[0])
    assert host.messages[-1] == ended


def test_closing_the_stdout_port_on_the_host_gives_the_writer_sigpipe(start: Start) -> None:
    host = start("yes; echo $? >&2")
    host.expect_output("stdout", b"y\n" * 10)
    host.sockets.pop("stdout").close()
    host.expect("exit")
    assert host.received["stderr"] == b"141\n"


def test_writer_blocks_while_the_host_does_not_read(start: Start) -> None:
    script = "i=0; while [ $i -lt 64 ]; do head -c 65536 /dev/zero; i=$((i+1)); echo $i >&2; done"
    host = start(script)
    host.paused = {"stdout"}
    host.sockets["stdout"].setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
    host.expect_output("stderr", b"2\n")
    for _ in range(20):
        host.read(0.02)
    assert b"20\n" not in host.received["stderr"]
    host.paused.clear()
    assert host.last_message() == "exit 0"
    assert len(host.received["stdout"]) == 64 * 65536


def test_command_can_open_dev_stdin_stdout_and_stderr(start: Start) -> None:
    host = start("cat /dev/stdin >/dev/stderr; echo x >/dev/stdout")
    host.send_stdin(b"abc")
    assert host.last_message() == "exit 0"
    assert (host.received["stdout"], host.received["stderr"]) == (b"x\n", b"abc")


@pytest.mark.parametrize("number", [1, 2, 3, 10, 12, 15])
def test_signal_message_sends_the_signal_to_the_command(start: Start, number: int) -> None:
    host = start("echo up; exec sleep 60")
    host.expect_output("stdout", b"up")
    host.send(f"signal {number}")
    assert host.last_message() == f"signal {number}"


def test_sigint_is_sent_to_the_process_group_of_the_command(start: Start) -> None:
    child = "trap 'echo child; exit' INT; echo up; while :; do sleep 0.1; done"
    host = start(f"trap 'echo shell' INT; ({child}); exit 5")
    host.expect_output("stdout", b"up")
    host.send("signal 2")
    assert host.last_message() == "exit 5"
    assert sorted(host.received["stdout"].split()) == [b"child", b"shell", b"up"]


def test_sigterm_is_sent_to_the_command_but_not_to_its_children(start: Start) -> None:
    host = start("trap 'exit 6' TERM; (trap 'echo child' TERM; echo up; sleep 0.3) & wait; wait")
    host.expect_output("stdout", b"up")
    host.send("signal 15")
    assert host.last_message() == "exit 6"


INVALID_MESSAGES = """

  bye?
signal
signal 0
signal 65
signal -9
signal x
signal 15 15
eof
eof stdin
eof stdin x
eof stdout 5
eof nothing 0
closed
closed stdin
resize 1
resize a b
resize 24 80
exit 9
\x00
é
"""


def test_invalid_and_unknown_messages_are_ignored(start: Start) -> None:
    host = start("read line; echo $line")
    host.expect("started")
    for message in (INVALID_MESSAGES, "x" * 10000):
        host.send(message)
    host.send_stdin(b"still here\n")
    assert host.last_message() == "exit 0"
    assert host.received["stdout"] == b"still here\n"


def test_background_process_is_stopped_and_its_output_is_delivered(start: Start) -> None:
    host = start("(trap 'echo stopped; exit' TERM; echo up; while :; do sleep 0.1; done) & read x")
    host.expect_output("stdout", b"up")
    host.send_stdin(b"\n")
    assert host.last_message() == "exit 0"
    assert host.received["stdout"] == b"up\nstopped\n"


class Unkillable:
    """Processes that do not end, as in an uninterruptible sleep; the loop; and the control port."""

    def __init__(self) -> None:
        self.signals: list[int] = []
        self.waited = 0.0  # seconds
        self.sent: list[tuple[str, ...]] = []

    def has_others(self) -> bool:
        return True

    def signal_others(self, number: int) -> None:
        self.signals.append(number)

    def run(self, is_over: Callable[[], bool], seconds: float) -> bool:
        self.waited += seconds
        return is_over()

    def send(self, *words: str) -> None:
        self.sent.append(words)


def test_process_that_cannot_be_killed_is_named_in_a_warning() -> None:
    fake = Unkillable()
    stop_processes(fake, fake, fake)
    assert fake.signals[:3] == [signal.SIGTERM, signal.SIGCONT, signal.SIGKILL]
    assert set(fake.signals[2:]) == {signal.SIGKILL}
    assert fake.waited == pytest.approx(2 * GRACE_PERIOD)
    assert fake.sent == [("warning", "a process does not end, not even when killed")]


def test_process_stopped_by_sigstop_is_terminated_after_the_command(start: Start) -> None:
    host = start("(kill -STOP $(exec sh -c 'echo $PPID')) & sleep 0.2; echo up")
    assert host.last_message(60) == "exit 0"


def test_command_gets_sighup_when_the_host_disconnects(start: Start, tmp_path: Path) -> None:
    trap = f"trap 'echo hung up >{tmp_path}/trace; exit' HUP"
    host = start(f"{trap}; echo up; while :; do sleep 0.1; done")
    host.expect_output("stdout", b"up")
    host.sockets["control"].shutdown(socket.SHUT_RDWR)
    wait_for_file(tmp_path / "trace")
    assert (tmp_path / "trace").read_text() == "hung up\n"


def wait_for_file(path: Path) -> None:
    for _ in range(1000):
        if path.exists() and path.read_text():
            return
        time.sleep(0.01)
    raise AssertionError(f"{path} was not written")


def test_command_starts_in_its_own_session_with_clean_descriptors_and_signals(start: Start) -> None:
    host = start(
        "cut -d' ' -f1,5,6,7 /proc/$$/stat; ls /proc/$$/fd; umask; exec grep Sig /proc/self/status"
    )
    assert host.last_message() == "exit 0"
    stat, *rest = host.received["stdout"].decode().splitlines()
    pid, group, session, terminal = stat.split()
    assert (group, session, terminal) == (pid, pid, "0")
    assert [line for line in rest if line.isdigit()] == ["0", "1", "2", "0022"]
    masks = dict(line.split(":\t") for line in rest if ":" in line)
    assert int(masks["SigBlk"], 16) == 0
    assert int(masks["SigIgn"], 16) & ~INTERNAL_SIGNALS == 0


def test_missing_command_gives_exit_status_127_and_a_warning(start: Start) -> None:
    host = start("", argv=(b"no such command",))
    assert host.last_message() == "exit 127"
    assert host.messages[1].startswith("warning cannot run no such command: not found in PATH")
    assert "started" not in host.messages


def test_command_without_execute_permission_gives_exit_status_126(
    start: Start, tmp_path: Path
) -> None:
    (tmp_path / "text").write_text("hello\n")
    host = start("", argv=(bytes(tmp_path / "text"),))
    assert host.last_message() == "exit 126"
    assert "it is not executable" in host.messages[1]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        pytest.param({"cwd": b"/no/such/place"}, ("/no/such/place", "No such file"), id="cwd"),
        pytest.param({"cwd": b""}, ("enter the directory",), id="empty cwd"),
        pytest.param({"user": b"nobody-here"}, ("nobody-here", "/etc/passwd"), id="user"),
    ],
)
def test_missing_directory_or_user_is_an_error_without_a_status(
    start: Start, change: dict[str, object], words: tuple[str, ...]
) -> None:
    text = start("true", **change).last_message()
    # `supervised` passes the error to Session.fail as text, which makes a refusal a failure.
    assert text.startswith("failed ")
    assert all(word in text for word in words)


# Commands with a terminal.


def test_terminal_is_a_pty_of_the_given_size_in_utf8_mode(start: Start) -> None:
    host = start("tty; stty size; stty -a", tty=(0, 1, 2), size=(33, 111))
    assert host.last_message() == "exit 0"
    lines = host.received["tty"].decode().split("\r\n")
    assert lines[0].startswith("/dev/pts/")
    assert lines[1] == "33 111"
    assert " iutf8" in host.received["tty"].decode()


def test_resize_message_gives_sigwinch_and_the_new_size(start: Start) -> None:
    host = start(
        "trap 'stty size; exit' WINCH; echo up; while :; do sleep 0.1; done", tty=(0, 1, 2)
    )
    host.expect_output("tty", b"up")
    host.send("resize 50 132")
    assert host.last_message() == "exit 0"
    assert b"50 132" in host.received["tty"]


@pytest.mark.parametrize(
    ("key", "number"), [(b"\x03", "2"), (b"\x1c", "3")], ids=["Ctrl-C", "Ctrl-backslash"]
)
def test_interrupt_and_quit_keys_send_sigint_and_sigquit(
    start: Start, key: bytes, number: str
) -> None:
    host = start("echo up; exec sleep 60", tty=(0, 1, 2))
    host.expect_output("tty", b"up")
    host.write_port("tty", key)
    assert host.last_message() == f"signal {number}"


def test_ctrl_d_ends_the_input_of_a_terminal(start: Start) -> None:
    host = start("cat; exit 8", tty=(0, 1, 2))
    host.expect("started")
    host.write_port("tty", b"line\n\x04")
    assert host.last_message() == "exit 8"
    assert host.received["tty"] == b"line\r\nline\r\n"


def test_complete_terminal_output_arrives_before_the_status(start: Start) -> None:
    host = start("seq 20000", tty=(0, 1, 2))
    assert host.last_message() == "exit 0"
    assert host.received["tty"].decode().split() == [str(n) for n in range(1, 20001)]


def test_standard_error_can_be_separate_from_the_terminal(start: Start) -> None:
    host = start("echo out; echo err >&2; test -t 0 && test -t 1 && ! test -t 2", tty=(0, 1))
    assert host.last_message() == "exit 0"
    assert (host.received["tty"], host.received["stderr"]) == (b"out\r\n", b"err\n")


def test_interactive_shell_stops_and_resumes_a_job(start: Start) -> None:
    environ = (*ENVIRONMENT, b"PS1=<$?>")
    host = start("exec bash --norc -i", tty=(0, 1, 2), environ=environ)
    host.expect_output("tty", b"<0>")
    host.write_port("tty", b"sleep 61\n")
    host.expect_output("tty", b"sleep 61")
    wait_for_output(host, b"\x1a", b"Stopped")
    seen = len(host.received["tty"])
    host.write_port("tty", b"fg\n")
    host.expect_output("tty", b"sleep 61\r\n", after=seen)  # Ctrl-C drops unread output
    wait_for_output(host, b"\x03", b"<130>")
    host.write_port("tty", b"exit 9\n")
    assert host.last_message() == "exit 9"


def wait_for_output(host: Host, key: bytes, data: bytes) -> None:
    """Press a key until `data` is shown: at first the job may not be in the foreground yet."""
    for _ in range(100):
        host.write_port("tty", key)
        for _ in range(10):
            host.read(0.02)
        if data in host.received["tty"]:
            return
    raise AssertionError(host.received["tty"])


# Wait statuses of waitpid(2).


@pytest.mark.parametrize("status", range(256))
def test_every_exit_status_is_reported(status: int) -> None:
    pid = os.posix_spawn("/bin/sh", ["sh", "-c", f"exit {status}"], {})
    assert format_status(os.waitpid(pid, 0)[1]) == f"exit {status}"


FATAL_SIGNALS = [n for n in range(1, 65) if n not in (17, 18, 19, 20, 21, 22, 23, 28, 32, 33)]


@pytest.mark.parametrize("number", FATAL_SIGNALS)
def test_death_by_every_fatal_signal_is_reported(number: int) -> None:
    script = f"ulimit -c 0; kill -{number} $$; sleep 5"
    pid = os.posix_spawn("/bin/sh", ["sh", "-c", script], {}, setsigdef=[number])
    assert format_status(os.waitpid(pid, 0)[1]) == f"signal {number}"
