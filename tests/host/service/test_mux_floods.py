"""A guest that floods the port of a machine with several commands: bounded time and memory."""

import socket
import time
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from initrd.frames import (
    CLOSE,
    CONTROL,
    CREDIT,
    DATA,
    MAX_DATA,
    RUN,
    WINDOW,
    channel_of,
    encode_credit,
    encode_frame,
    encode_header,
)
from initrd.host.service.mux import Port
from initrd.host.system.loop import Loop

COMMANDS = 100
NAMES = ("control", "stdout")


class Machine:
    """A port with some commands, whose clients read nothing."""

    def __init__(self, stack: ExitStack) -> None:
        self.guest, host = (stack.enter_context(end) for end in socket.socketpair())
        self.loop = Loop()
        self.port = Port(self.loop, host)
        self.errors: list[str] = []
        self.messages: list[str] = []
        self.ended: list[int] = []
        self.port.on_error = self.errors.append
        self.port.on_message = self.messages.append
        self.port.on_end = self.ended.append
        stack.callback(self.port.close)
        self.clients: dict[int, dict[str, socket.socket]] = {}
        for _ in range(COMMANDS):
            pairs = {name: socket.socketpair() for name in NAMES}
            number = self.port.run(b"x", {name: end for name, (end, _) in pairs.items()})
            self.clients[number] = {
                name: stack.enter_context(end) for name, (_, end) in pairs.items()
            }

    def read(self) -> bytes:
        """Return what the guest can read now."""
        return drain(self.guest)


def drain(end: socket.socket) -> bytes:
    """Return what can be read now, and `end` if nothing follows."""
    data = b""
    try:
        while piece := end.recv(1 << 20, socket.MSG_DONTWAIT):
            data += piece
    except BlockingIOError:
        return data
    return data + b"end"


@pytest.fixture
def machine() -> Iterator[Machine]:
    with ExitStack() as stack:
        yield Machine(stack)


CONTROL_1 = channel_of(1, CONTROL)
STDOUT_1 = channel_of(1, "stdout")
MACHINE = channel_of(0, CONTROL)
IGNORED = {
    "closing a command again": encode_frame(CONTROL_1, CLOSE),
    "output of a closed command": encode_frame(STDOUT_1, DATA, b"x"),
    "credit for a closed command": encode_credit(STDOUT_1, 1),
    "credit for the machine": encode_credit(MACHINE, 1),
    "unknown messages": encode_frame(MACHINE, DATA, b"x\n"),
    "empty messages": encode_frame(MACHINE, DATA, b"\n" * MAX_DATA),
}


@pytest.mark.parametrize("frame", IGNORED.values(), ids=IGNORED)
def test_flood_of_frames_without_effect_takes_linear_time_and_no_memory(
    machine: Machine, frame: bytes
) -> None:
    machine.port.receive(encode_frame(CONTROL_1, CLOSE))
    machine.port.on_message = lambda _: None
    flood, began = frame * (1 + (1 << 18) // len(frame)), time.monotonic()
    machine.port.receive(flood)
    tracemalloc.start()
    try:
        for _ in range(4):
            machine.port.receive(flood)
            machine.read()  # what the host has sent, such as credit
        kept, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert kept < 300_000
    assert time.monotonic() - began < 60
    assert (machine.errors, machine.ended) == ([], [1])


ERRORS = {
    "unknown kind": (encode_header(CONTROL_1, 9, 0), "frames of the kind 9 are unknown"),
    "unknown channel": (encode_frame(15, DATA, b"x"), "there is no channel 15"),
    "unknown command": (
        encode_frame(channel_of(COMMANDS + 1, CONTROL), CLOSE),
        f"there is no command {COMMANDS + 1}",
    ),
    "last command": (encode_header(0xFFFFFFF8, DATA, 1) + b"x", "there is no command"),
    "channel that the command has not": (
        encode_frame(channel_of(1, "tty"), DATA, b"x"),
        "command 1 has no tty",
    ),
    "data on stdin": (encode_frame(channel_of(1, "stdin"), DATA, b"x"), "data on stdin"),
    "stream of the machine": (encode_frame(channel_of(0, "stdout"), DATA, b"x"), "no stdout"),
    "stream closed alone": (encode_frame(STDOUT_1, CLOSE), "closes stdout alone"),
    "run": (encode_frame(CONTROL_1, RUN, b"x"), "that could send a frame"),
    "credit": (encode_credit(STDOUT_1, 1), "more credit than was used"),
    "more data than allowed": (
        encode_frame(STDOUT_1, DATA, bytes(MAX_DATA)) * 8,
        "more bytes than allowed",
    ),
    "empty data": (encode_header(STDOUT_1, DATA, 0), "has 0 bytes"),
    "long data": (encode_header(STDOUT_1, DATA, MAX_DATA + 1), f"has {MAX_DATA + 1} bytes"),
    "short credit": (encode_frame(STDOUT_1, CREDIT, b"x"), "has 1 bytes"),
    "message without an end": (
        encode_frame(MACHINE, DATA, b"x" * MAX_DATA) * 2,
        "a message of the machine has no end",
    ),
}


@pytest.mark.parametrize(("data", "why"), ERRORS.values(), ids=ERRORS)
@pytest.mark.parametrize("size", [1, 1 << 20])
def test_frame_that_is_not_allowed_is_one_error(
    machine: Machine, data: bytes, why: str, size: int
) -> None:
    if size == 1 and len(data) > 1000:
        size = 4096
    for at in range(0, len(data), size):
        machine.port.receive(data[at : at + size])
        if machine.errors:
            break
    assert len(machine.errors) == 1
    assert why in machine.errors[0]
    for ends in machine.clients.values():  # each client learns that the machine has ended
        assert all(drain(end).endswith(b"end") for end in ends.values())
    machine.port.receive(data)


def test_data_that_no_client_reads_is_bounded_by_the_window(machine: Machine) -> None:
    stdout = [channel_of(number, "stdout") for number in machine.clients]
    tracemalloc.start()
    try:
        for channel in stdout[:20]:
            for _ in range(WINDOW // MAX_DATA):
                machine.port.receive(encode_frame(channel, DATA, bytes(MAX_DATA)))
        kept, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert not machine.errors
    assert kept < 20 * (WINDOW + MAX_DATA)


def test_credit_for_a_guest_that_does_not_read_is_bounded(machine: Machine) -> None:
    machine.port.send(bytes(4 << 20))  # more than a socket takes
    waiting = len(machine.port._outgoing)
    frame, client = encode_frame(STDOUT_1, DATA, bytes(MAX_DATA)), machine.clients[1]["stdout"]
    for _ in range(1000):
        machine.port.receive(frame)
        machine.loop.run(lambda: False, 0)
        while drain(client):
            machine.loop.run(lambda: False, 0)
            if machine.errors:
                break
        assert len(machine.port._outgoing) <= waiting
        if machine.errors:
            break
    assert machine.errors == ["more bytes than allowed were sent"]


def test_credit_that_was_added_up_is_sent_when_the_guest_reads(machine: Machine) -> None:
    machine.port.send(b"x" * (1 << 20))
    machine.port.give_credit(STDOUT_1, 1000)
    machine.port.give_credit(STDOUT_1, 234)
    machine.port.give_credit(CONTROL_1, 5)
    received = b""
    for _ in range(1000):
        received += machine.read()
        machine.loop.run(lambda: False, 0)
    assert received.endswith(b"x" + encode_credit(STDOUT_1, 1234) + encode_credit(CONTROL_1, 5))


def count_calls(function: Callable[..., object]) -> tuple[list[int], Callable[..., object]]:
    calls: list[int] = []

    def counting(*arguments: object) -> object:
        calls.append(1)
        return function(*arguments)

    return calls, counting


def test_closing_all_commands_closes_each_once(machine: Machine) -> None:
    calls, machine.port.on_end = count_calls(lambda _: None)
    frames = [encode_frame(channel_of(number, CONTROL), CLOSE) for number in machine.clients]
    machine.port.receive(b"".join(frames) * 50)
    assert len(calls) == COMMANDS
    assert machine.port.is_delivered
    for ends in machine.clients.values():
        assert all(drain(end) == b"end" for end in ends.values())
