"""The host's side of docs/command.md; the test acts as the guest."""

import os
import random
import socket
import time
import tracemalloc
import tty
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from initrd.host.command.protocol import CommandProtocol, LocalStreams
from initrd.host.system.hosterror import HostError
from initrd.host.system.loop import Loop
from initrd.host.system.stream import Sink

STREAMS = ("control", "stdin", "stdout", "stderr")
TERMINAL = ("control", "tty")


class Guest:
    """The guest's ends of the ports, connected to the CommandProtocol under test as `host`."""

    def __init__(self, names: tuple[str, ...], **streams: object) -> None:
        pairs = {name: socket.socketpair() for name in names}
        self.ports = {name: guest for name, (_, guest) in pairs.items()}
        self._sockets = {f"initrd.{name}": host for name, (host, _) in pairs.items()}
        self.output: dict[str, bytes] = dict.fromkeys((*names, "tty"), b"")
        self.warnings: list[str] = []
        self.loop = Loop()
        defaults = {"on_output": self._on_output, "on_warning": self.warnings.append}
        self.host = CommandProtocol(
            self.loop, self._sockets, LocalStreams(**{**defaults, **streams})
        )

    def _on_output(self, name: str, data: bytes) -> None:
        self.output[name] += data

    def send(self, *messages: str) -> None:
        """Send messages on the control port."""
        for message in messages:
            self.ports["control"].sendall(f"{message}\n".encode())
        self.run_loop()

    def write(self, name: str, data: bytes) -> None:
        """Send data on a port."""
        self.ports[name].sendall(data)
        self.run_loop()

    def run_loop(self) -> None:
        """Let the host handle all pending events."""
        for _ in range(20):
            self.loop.run(lambda: False, 0)

    def received(self, name: str = "control") -> bytes:
        """Return what the host has sent on a port, and drop it from the port."""
        self.run_loop()
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
def test_status_is_the_exit_status_of_the_command(guest: Guest, status: int) -> None:
    guest.send("ready", "started", "eof stdout 0", "eof stderr 0", f"exit {status}")
    assert guest.host.finished
    assert guest.host.status() == status


@pytest.mark.parametrize("number", range(1, 65))
def test_status_after_a_signal_is_128_plus_its_number(guest: Guest, number: int) -> None:
    guest.send("started", "eof stdout 0", "eof stderr 0", f"signal {number}")
    assert guest.host.status() == 128 + number


def test_protocol_is_finished_when_all_output_has_arrived(guest: Guest) -> None:
    guest.send("eof stdout 6", "eof stderr 0", "exit 0")
    assert not guest.host.finished
    guest.write("stdout", b"abc")
    assert not guest.host.finished
    guest.write("stdout", b"def")
    assert guest.host.finished
    assert guest.output["stdout"] == b"abcdef"


def test_output_may_arrive_before_the_message_about_its_end(guest: Guest) -> None:
    guest.write("stdout", b"abc")
    guest.send("eof stderr 0", "eof stdout 3", "exit 0")
    assert guest.host.finished


def test_messages_may_arrive_in_pieces(guest: Guest) -> None:
    for byte in b"eof stdout 0\neof stderr 0\nex":
        guest.write("control", bytes([byte]))
    assert not guest.host.finished
    guest.write("control", b"it 7\n")
    assert guest.host.status() == 7


def test_failed_message_gives_the_reason(guest: Guest) -> None:
    guest.send("failed cannot mount data: no tag\\ntry: another\\\\tag", "eof stdout 0")
    assert guest.host.failure == "cannot mount data: no tag\ntry: another\\tag"


def test_refused_message_is_no_failure(guest: Guest) -> None:
    guest.send("refused cannot run the command as \\n: no such user")
    assert guest.host.refusal == "cannot run the command as \n: no such user"
    assert guest.host.failure == ""


@pytest.mark.parametrize("message", ["failed x", "refused x"])
def test_guest_without_a_status_is_sent_bye_at_once(guest: Guest, message: str) -> None:
    guest.send(message)
    assert guest.received() == b"bye\n"


def test_guest_that_wakes_up_gets_the_time_once(guest: Guest) -> None:
    guest.send("awake")
    word, microseconds = guest.received().split()
    assert word == b"time"
    assert abs(int(microseconds) / 1e6 - time.time()) < 60
    guest.send(*["awake"] * 100)
    assert guest.received() == b""


def test_bytes_for_the_control_port_precede_later_messages(guest: Guest) -> None:
    content = bytes(range(256)) * 4000  # more than a socket takes at once
    guest.host.send_start(content)
    guest.host.send("bye")
    guest.send("ready")
    received = b""
    while piece := guest.received():
        received += piece
    assert received == content + b"bye\n"


def test_first_final_message_counts(guest: Guest) -> None:
    guest.send("eof stdout 0", "eof stderr 0", "exit 1", "exit 2", "failed")
    assert guest.host.status() == 1


def test_warnings_are_passed_on_and_unknown_messages_ignored(guest: Guest) -> None:
    guest.send("warning one\\ntwo", "something new that is not known yet")
    assert guest.warnings == ["one\ntwo"]


def test_started_message_calls_on_start() -> None:
    with closing(Guest(STREAMS)) as guest:
        started: list[bool] = []
        guest.host.on_start = lambda: started.append(guest.host.started)
        guest.send("ready")
        assert not started
        guest.send("started")
        assert started == [True]


@pytest.mark.parametrize(
    "message", ["exit x", "signal", "exit -1", "exit \u0663", "exit " + "9" * 30]
)
def test_status_that_is_no_number_is_an_error(guest: Guest, message: str) -> None:
    guest.send("eof stdout 0", "eof stderr 0", message)
    with pytest.raises(HostError, match="cannot understand the guest"):
        guest.host.status()


def test_overlong_line_on_the_control_port_is_an_error(guest: Guest) -> None:
    guest.write("control", b"x" * (1 << 16))
    with pytest.raises(HostError, match="a message has more than 65536 bytes"):
        guest.write("control", b"x")


@pytest.mark.parametrize("message", ["ready", "started", "ended exit 0", "eof stdout 0"])
def test_message_that_comes_twice_is_an_error(guest: Guest, message: str) -> None:
    guest.send(message)
    expected = message if message.startswith("eof") else message.split(" ", maxsplit=1)[0]
    with pytest.raises(
        HostError, match=r"^cannot understand the guest: it has sent .* twice"
    ) as got:
        guest.send(message)
    assert expected.removesuffix(" 0") in str(got.value)


@pytest.mark.parametrize("name", ["", "stdin", "control", "tty", "x" * 5000, "stdout stdout"])
def test_end_of_what_is_no_output_is_an_error(guest: Guest, name: str) -> None:
    with pytest.raises(HostError, match=r"it has ended '.{0,40}', which is no output|not a number"):
        guest.send(f"eof {name} 0")


def test_frames_are_refused_in_a_machine_for_one_command(guest: Guest) -> None:
    with pytest.raises(HostError, match="'frames' in a machine for one command"):
        guest.send("frames 2")


def test_start_of_the_command_is_handled_once(guest: Guest) -> None:
    started: list[bool] = []
    guest.host.on_start = lambda: started.append(True)
    with pytest.raises(HostError):
        guest.send(*["started"] * 100)
    assert started == [True]


def test_messages_after_the_final_one_are_ignored(guest: Guest) -> None:
    guest.send("eof stdout 0", "eof stderr 0", "exit 1", "started", "started", "warning x")
    assert (guest.host.status(), guest.host.started, guest.warnings) == (1, False, [])


def test_warnings_are_limited_in_number_and_size(guest: Guest) -> None:
    for _ in range(20):
        guest.send(*["warning " + "\\\\" * 30_000])
    for _ in range(1000):
        guest.send("warning y")
    assert guest.warnings[0] == "\\" * 4000 + " …"
    assert guest.warnings[20:] == ["y"] * 30 + ["further warnings of the guest are left out"]


def test_text_of_a_failure_is_limited(guest: Guest) -> None:
    guest.send("failed " + "x" * 65_000)
    assert guest.host.failure == "x" * 4000 + " …"


FLOODS = {
    "warnings": b"warning x\n",
    "unknown messages": b"x\n",
    "empty messages": b"\n",
    "ends of input": b"closed stdin\n",
    "requests for the time": b"awake\n",
    "long messages": b"x" * 60_000 + b"\n",
    "statuses": b"exit 0\n",
}


@pytest.mark.parametrize("message", FLOODS.values(), ids=FLOODS)
def test_flood_of_messages_takes_no_memory(guest: Guest, message: bytes) -> None:
    data = message * ((1 << 16) // len(message))  # less than `run_loop` reads
    guest.write("control", data)
    tracemalloc.start()
    try:
        for _ in range(20):
            guest.write("control", data)
        kept, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert kept < 100_000
    assert most < 1_000_000


def test_any_mixture_of_messages_is_handled_or_refused() -> None:
    numbers = random.Random(12)
    words = ["ready", "started", "ended", "eof", "stdout", "exit", "signal", "failed", "warning"]
    words += ["frames", "2", "0", "-1", "9" * 30, "\\n", "\xff", "closed", "stdin", "awake", "\0"]
    for _ in range(300):
        with closing(Guest(numbers.choice([STREAMS, TERMINAL, ("control",)]))) as guest:
            try:
                for _ in range(numbers.randint(1, 8)):
                    guest.send(" ".join(numbers.choices(words, k=numbers.randint(1, 3))))
                if guest.host.finished and guest.host.final and not guest.host.failure:
                    guest.host.status()
            except HostError as error:
                assert error.what == "cannot understand the guest"


def test_input_is_copied_to_the_guest_and_its_length_announced(tmp_path: Path) -> None:
    (tmp_path / "input").write_bytes(b"\0\xff binary\r\n")
    with open(tmp_path / "input", "rb") as file:
        guest = Guest(STREAMS, stdin=file.fileno())
        assert guest.received() == b""
        guest.host.start_input()
        guest.host.start_input()
        assert guest.received("stdin") == b"\0\xff binary\r\n"
        assert guest.received() == b"eof stdin 11\n"
        guest.close()


def test_input_that_the_guest_has_closed_is_not_read(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    with closing(Guest(STREAMS, stdin=reader)) as guest:
        guest.host.start_input()
        guest.send("closed stdin")
        os.write(writer, b"for another reader")
        guest.run_loop()
        assert os.read(reader, 100) == b"for another reader"
    os.close(reader)
    os.close(writer)


def test_broken_pipe_on_the_host_closes_the_stream_in_the_guest() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with closing(Sink(writer)) as sink, closing(Guest(STREAMS, stdout=sink)) as guest:
        guest.write("stdout", b"one")
        guest.write("stdout", b"two")
        assert guest.received() == b"closed stdout\n"
        assert guest.warnings == []
        guest.send("eof stderr 0", "signal 13")
        assert guest.host.status() == 141
    os.close(writer)


def test_failed_write_of_output_is_a_warning_and_closes_the_stream() -> None:
    with open("/dev/full", "wb", buffering=0) as full, closing(Sink(full.fileno())) as sink:
        guest = Guest(STREAMS, stderr=sink)
        guest.write("stderr", b"one")
        assert guest.warnings == ["cannot write stderr: No space left on device"]
        assert guest.host.output_error == guest.warnings[0]
        assert guest.received() == b"closed stderr\n"
        guest.close()


def test_terminal_has_one_port_for_both_directions() -> None:
    reader, writer = os.pipe()
    with closing(Guest(TERMINAL, stdin=reader)) as guest:
        guest.host.start_input()
        os.write(writer, b"ls\r")
        assert guest.received("tty") == b"ls\r"
        guest.write("tty", b"file\r\n")
        assert guest.output["tty"] == b"file\r\n"
        guest.send("eof tty 6", "exit 0")
        assert guest.host.finished
        os.close(writer)
        assert guest.received() == b""
    os.close(reader)


def test_keys_are_seen_when_the_guest_takes_no_input() -> None:
    controller, terminal = os.openpty()
    tty.setraw(terminal)
    seen = bytearray()
    with closing(Guest(TERMINAL, stdin=terminal)) as guest:
        guest.host.on_input = seen.extend
        guest.host.start_input()
        guest.send("closed stdin", "closed tty")
        typed = 0
        while typed < 1_000_000:
            typed += os.write(controller, b"x" * 1000)
            guest.loop.run(lambda: False, 0)
        os.write(controller, b"\x1d")
        guest.run_loop()
        assert len(seen) == typed + 1
        assert seen.endswith(b"x\x1d")
        received = b"".join(iter(lambda: guest.received("tty"), b""))
        assert received.startswith(b"xxx")
        os.write(controller, b"more")
        assert guest.received("tty") == b"more"
    os.close(controller)
    os.close(terminal)


def test_sending_to_a_closed_control_port_raises_no_error(guest: Guest) -> None:
    guest.ports["control"].close()
    guest.run_loop()
    guest.host.send("bye")
    assert not guest.host.finished


def test_messages_to_a_guest_that_reads_slowly_are_all_delivered(guest: Guest) -> None:
    for _ in range(2000):
        guest.host.send("signal 10")
    guest.host.send("eof stdin 5")
    received = b"".join(iter(guest.received, b""))
    assert received == b"signal 10\n" * 2000 + b"eof stdin 5\n"


def test_hangup_of_the_local_terminal_is_sent_to_the_guest() -> None:
    controller, terminal = os.openpty()
    with closing(Guest(TERMINAL, stdin=terminal)) as guest:
        guest.host.start_input()
        os.close(controller)
        assert guest.received() == b"closed tty\n"
        guest.send("signal 1")
        assert guest.host.finished
    os.close(terminal)


def test_control_message_is_handled_before_output_sent_after_it() -> None:
    events: list[bytes] = []
    with closing(Guest(TERMINAL, on_output=lambda _, data: events.append(data))) as guest:
        guest.host.on_start = lambda: events.append(b"started")
        guest.ports["tty"].sendall(b"output")
        guest.ports["control"].sendall(b"started\n")
        guest.run_loop()
    assert events == [b"started", b"output"]


def test_machine_that_has_booted_gets_the_time_when_it_is_ready(guest: Guest) -> None:
    before = time.time_ns() // 1000
    guest.send("ready")
    word, number = guest.received().split()
    assert word == b"time"
    assert before <= int(number) <= time.time_ns() // 1000


def test_machine_for_several_commands_gets_no_line_with_the_time() -> None:
    with closing(Guest(("control",))) as guest:
        guest.send("ready")
        assert guest.received() == b""


def test_messages_to_a_starting_machine_are_held_until_it_is_ready(guest: Guest) -> None:
    guest.host.send_start(b"start")
    guest.host.send("signal 10")
    guest.host.send("eof stdin 0")
    assert guest.received() == b"start"
    guest.send("awake")
    received = guest.received()
    assert received.startswith(b"time ") and received.count(b"\n") == 1
    guest.send("ready")
    assert guest.received() == b"signal 10\neof stdin 0\n"
    guest.host.send("bye")
    assert guest.received() == b"bye\n"


@pytest.mark.parametrize("message", ["failed why", "refused why"])
def test_messages_to_a_machine_that_cannot_start_are_sent_at_its_end(
    guest: Guest, message: str
) -> None:
    guest.host.send_start(b"start")
    guest.host.send("signal 10")
    guest.send(message)
    assert guest.received() == b"startsignal 10\nbye\n"


def test_time_is_that_of_the_host_in_microseconds(guest: Guest) -> None:
    before = time.time_ns() // 1000
    guest.send("awake")
    word, _, number = guest.received().decode().partition(" ")
    assert word == "time"
    assert before <= int(number) <= time.time_ns() // 1000


def test_bytes_after_the_message_frames_are_for_another_reader() -> None:
    with closing(Guest(("control",))) as guest:
        guest.ports["control"].sendall(b"ready\nframes 2\n\x08\nexit 1\n")
        guest.run_loop()
        assert guest.host.has_frames
        guest.host.send("bye")
        connection, received = guest.host.take_over()
        assert received == b"\x08\nexit 1\n"
        assert connection.fileno() >= 0
        assert guest.host.final is None
        assert guest.received() == b""


@pytest.mark.parametrize("version", ["1", "3", "", "x"])
def test_guest_with_another_version_of_frames_is_refused(version: str) -> None:
    with closing(Guest(("control",))) as guest:
        with pytest.raises(HostError, match=r"uses version .* of the protocol, and not 2"):
            guest.send(f"frames {version}")
        assert not guest.host.has_frames
