"""The host's side of docs/command.md, with a guest that the test plays."""

import os
import socket
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from initrd.errors import HostError
from initrd.host.command.protocol import CommandProtocol, LocalStreams
from initrd.host.system.loop import Loop
from initrd.host.system.stream import Sink

STREAMS = ("control", "stdin", "stdout", "stderr")
TERMINAL = ("control", "tty")


class Guest:
    """Both sides: the conversation, and the guest's ends of its ports."""

    def __init__(self, names: tuple[str, ...], **ends: object) -> None:
        pairs = {name: socket.socketpair() for name in names}
        self.ports = {name: guest for name, (_, guest) in pairs.items()}
        self._sockets = {f"initrd.{name}": host for name, (host, _) in pairs.items()}
        self.output: dict[str, bytes] = dict.fromkeys((*names, "tty"), b"")
        self.warnings: list[str] = []
        self.loop = Loop()
        ends = {"on_output": self._see, "on_warning": self.warnings.append, **ends}
        self.host = CommandProtocol(self.loop, self._sockets, LocalStreams(**ends))

    def _see(self, name: str, data: bytes) -> None:
        self.output[name] += data

    def says(self, *messages: str) -> None:
        for message in messages:
            self.ports["control"].sendall(f"{message}\n".encode())
        self.turn()

    def writes(self, name: str, data: bytes) -> None:
        self.ports[name].sendall(data)
        self.turn()

    def turn(self) -> None:
        for _ in range(20):
            self.loop.run(lambda: False, 0)

    def hears(self, name: str = "control") -> bytes:
        self.turn()
        self.ports[name].setblocking(False)
        try:
            return self.ports[name].recv(1 << 16)
        except BlockingIOError:
            return b""

    def close(self) -> None:
        self.host.close()
        for end in (*self.ports.values(), *self._sockets.values()):
            end.close()


@pytest.fixture
def guest() -> Iterator[Guest]:
    with closing(Guest(STREAMS)) as guest:
        yield guest


@pytest.mark.parametrize("status", range(256))
def test_every_exit_status_is_the_commands(guest: Guest, status: int) -> None:
    guest.says("ready", "started", "eof stdout 0", "eof stderr 0", f"exit {status}")
    assert guest.host.finished
    assert guest.host.status() == status


@pytest.mark.parametrize("number", range(1, 65))
def test_death_by_a_signal_is_128_and_more(guest: Guest, number: int) -> None:
    guest.says("started", "eof stdout 0", "eof stderr 0", f"signal {number}")
    assert guest.host.status() == 128 + number


def test_it_is_over_when_every_byte_is_here(guest: Guest) -> None:
    guest.says("eof stdout 6", "eof stderr 0", "exit 0")
    assert not guest.host.finished
    guest.writes("stdout", b"abc")
    assert not guest.host.finished
    guest.writes("stdout", b"def")
    assert guest.host.finished
    assert guest.output["stdout"] == b"abcdef"


def test_the_bytes_may_come_before_the_message(guest: Guest) -> None:
    guest.writes("stdout", b"abc")
    guest.says("eof stderr 0", "eof stdout 3", "exit 0")
    assert guest.host.finished


def test_messages_come_in_pieces(guest: Guest) -> None:
    for byte in b"eof stdout 0\neof stderr 0\nex":
        guest.writes("control", bytes([byte]))
    assert not guest.host.finished
    guest.writes("control", b"it 7\n")
    assert guest.host.status() == 7


def test_a_failure_is_a_reason_and_not_a_status(guest: Guest) -> None:
    guest.says("failed cannot mount data: no tag\\ntry: another\\\\tag", "eof stdout 0")
    assert guest.host.failure == "cannot mount data: no tag\ntry: another\\tag"


def test_a_refusal_is_no_failure(guest: Guest) -> None:
    guest.says("refused cannot run the command as \\n: no such user")
    assert guest.host.refusal == "cannot run the command as \n: no such user"
    assert guest.host.failure == ""


@pytest.mark.parametrize("message", ["failed x", "refused x"])
def test_a_guest_that_has_no_status_need_not_wait(guest: Guest, message: str) -> None:
    guest.says(message)
    assert guest.hears() == b"bye\n"


def test_only_the_first_last_message_counts(guest: Guest) -> None:
    guest.says("eof stdout 0", "eof stderr 0", "exit 1", "exit 2", "failed")
    assert guest.host.status() == 1


def test_warnings_are_passed_on(guest: Guest) -> None:
    guest.says("warning one\\ntwo", "something new that is not known yet")
    assert guest.warnings == ["one\ntwo"]


def test_the_start_is_told() -> None:
    with closing(Guest(STREAMS)) as guest:
        started: list[bool] = []
        guest.host.on_start = lambda: started.append(guest.host.started)
        guest.says("ready")
        assert not started
        guest.says("started")
        assert started == [True]


@pytest.mark.parametrize(
    "message", ["exit x", "signal", "exit -1", "exit \u0663", "exit " + "9" * 30]
)
def test_a_guest_that_talks_nonsense_is_not_believed(guest: Guest, message: str) -> None:
    guest.says("eof stdout 0", "eof stderr 0", message)
    with pytest.raises(HostError, match="cannot understand the guest"):
        guest.host.status()


def test_a_line_without_end_is_given_up(guest: Guest) -> None:
    for _ in range(40):
        guest.ports["control"].setblocking(False)
        try:
            guest.ports["control"].send(b"x" * 4096)
        except BlockingIOError:
            break
        guest.turn()
    assert not guest.host.finished


def test_input_goes_to_the_guest_and_its_end_with_the_number_of_bytes(tmp_path: Path) -> None:
    (tmp_path / "input").write_bytes(b"\0\xff binary\r\n")
    with open(tmp_path / "input", "rb") as file:
        guest = Guest(STREAMS, stdin=file.fileno())
        assert guest.hears() == b""
        guest.host.start_input()
        guest.host.start_input()
        assert guest.hears("stdin") == b"\0\xff binary\r\n"
        assert guest.hears() == b"eof stdin 11\n"
        guest.close()


def test_input_that_nobody_reads_is_not_read_here(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    with closing(Guest(STREAMS, stdin=reader)) as guest:
        guest.host.start_input()
        guest.says("closed stdin")
        os.write(writer, b"for somebody else")
        guest.turn()
        assert os.read(reader, 100) == b"for somebody else"
    os.close(reader)
    os.close(writer)


def test_output_that_nobody_reads_here_is_not_written_there() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with closing(Sink(writer)) as sink, closing(Guest(STREAMS, stdout=sink)) as guest:
        guest.writes("stdout", b"one")
        guest.writes("stdout", b"two")
        assert guest.hears() == b"closed stdout\n"
        assert guest.warnings == []
        guest.says("eof stderr 0", "signal 13")
        assert guest.host.status() == 141
    os.close(writer)


def test_output_that_cannot_be_written_is_told() -> None:
    with open("/dev/full", "wb", buffering=0) as full, closing(Sink(full.fileno())) as sink:
        guest = Guest(STREAMS, stderr=sink)
        guest.writes("stderr", b"one")
        assert guest.warnings == ["cannot write stderr: No space left on device"]
        assert guest.host.output_error == guest.warnings[0]
        assert guest.hears() == b"closed stderr\n"
        guest.close()


def test_a_terminal_has_one_stream_for_both_directions() -> None:
    reader, writer = os.pipe()
    with closing(Guest(TERMINAL, stdin=reader)) as guest:
        guest.host.start_input()
        os.write(writer, b"ls\r")
        assert guest.hears("tty") == b"ls\r"
        guest.writes("tty", b"file\r\n")
        assert guest.output["tty"] == b"file\r\n"
        guest.says("eof tty 6", "exit 0")
        assert guest.host.finished
        os.close(writer)
        assert guest.hears() == b""
    os.close(reader)


def test_a_guest_that_listens_no_more_does_no_harm(guest: Guest) -> None:
    guest.ports["control"].close()
    guest.turn()
    guest.host.send("bye")
    assert not guest.host.finished


def test_no_message_is_lost_on_a_guest_that_is_slow(guest: Guest) -> None:
    for _ in range(2000):
        guest.host.send("signal 10")
    guest.host.send("eof stdin 5")
    heard = b"".join(iter(guest.hears, b""))
    assert heard == b"signal 10\n" * 2000 + b"eof stdin 5\n"


def test_a_terminal_that_hangs_up_is_told() -> None:
    keyboard, screen = os.openpty()
    with closing(Guest(TERMINAL, stdin=screen)) as guest:
        guest.host.start_input()
        os.close(keyboard)
        assert guest.hears() == b"closed tty\n"
        guest.says("signal 1")
        assert guest.host.finished
    os.close(screen)


def test_what_is_said_first_is_heard_first() -> None:
    seen: list[bytes] = []
    with closing(Guest(TERMINAL, on_output=lambda _, data: seen.append(data))) as guest:
        guest.host.on_start = lambda: seen.append(b"started")
        guest.ports["tty"].sendall(b"output")
        guest.ports["control"].sendall(b"started\n")
        guest.turn()
    assert seen == [b"started", b"output"]
