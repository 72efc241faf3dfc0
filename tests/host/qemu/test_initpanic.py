"""The panic at the end of INIT is held back; all other output is shown at once."""

import os
import random
import re
import time
from collections.abc import Iterator
from contextlib import closing

import pytest

from initrd.host.qemu.initpanic import ConsoleSink, PanicFilter
from initrd.host.system.loop import READABLE, Loop, is_ready
from initrd.host.system.stream import Relay

PANIC = (
    b"[    3.123456] Kernel panic - not syncing: Attempted to kill init! exitcode=0x00000700\r\n"
    b"[    3.123999] CPU: 0 PID: 1 Comm: sh Not tainted 6.1.0 #1\r\n"
    b"[    3.124000] Call Trace:\r\n"
    b"[    3.124001]  <TASK>\r\n"
    b"\r\n"
    b"[    3.124002] Kernel Offset: disabled\r\n"
)
TEXTS = {
    "a whole console": b"hello\r\n/ # exit\r\n",
    "a prompt on the same line": b"hello\r\n/ # ",
    "brackets before it": b"[[[[K[    K[ 1.[ 1.5[ 1.5] [ 1.5] Kernel panic\r\n",
    "other lines of the kernel": b"[    2.5] a\r\n[    2.6] Kernel panic - not syncing: other\r\n",
    "nothing": b"",
}


def feed(text: bytes, sizes: Iterator[int]) -> tuple[bytes, PanicFilter]:
    """Feed a filter with pieces of these sizes; return what it has shown."""
    filter_, shown = PanicFilter(), b""
    while text:
        size = next(sizes)
        shown += filter_.feed(text[:size])
        text = text[size:]
    return shown, filter_


def piece_sizes() -> Iterator[Iterator[int]]:
    yield iter(lambda: 1, 0)
    yield iter(lambda: 1 << 16, 0)
    for seed in range(20):
        numbers = random.Random(seed)
        yield iter(lambda numbers=numbers: numbers.randint(1, 90), 0)  # type: ignore[misc]


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
@pytest.mark.parametrize("stamp", [b"[    3.1] ", b"[    3.123456][    T1] ", b"", b"[12345.1] "])
def test_panic_is_held_back_however_the_output_is_divided(text: bytes, stamp: bytes) -> None:
    panic = stamp + PANIC.partition(b"] ")[2]
    for sizes in piece_sizes():
        shown, filter_ = feed(text + panic, sizes)
        assert (shown, filter_.held, filter_.has_panic) == (text, panic, True)


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
@pytest.mark.parametrize("following", [b"/ # ", b"[root@vm]# ", b"hello\r\n", b"\x1b[1;1H"])
def test_panic_is_shown_when_other_output_follows(text: bytes, following: bytes) -> None:
    for sizes in piece_sizes():
        shown, filter_ = feed(text + PANIC + following, sizes)
        assert shown + filter_.held == text + PANIC + following
        assert shown.startswith(text + PANIC)
        assert not filter_.has_panic


def test_second_panic_after_other_output_is_held_back() -> None:
    for sizes in piece_sizes():
        shown, filter_ = feed(PANIC + b"hello\r\n" + PANIC, sizes)
        assert (shown, filter_.held) == (PANIC + b"hello\r\n", PANIC)


def test_panic_without_timestamps_is_held_back_with_all_that_follows() -> None:
    panic = re.sub(rb"(?m)^\[.*?\] ", b"", PANIC) + b"---[ end " + PANIC.partition(b"] ")[2]
    for sizes in piece_sizes():
        shown, filter_ = feed(b"hello\r\n" + panic, sizes)
        assert (shown, filter_.held, filter_.has_panic) == (b"hello\r\n", panic, True)


@pytest.mark.parametrize("stamp", [b"", b"[    3.1] "])
def test_another_panic_ends_one_without_timestamps(stamp: bytes) -> None:
    printed = PANIC.partition(b"] ")[2].partition(b"\r\n")[0] + b"\r\nhello\r\n"
    panic = stamp + PANIC.partition(b"] ")[2]
    for sizes in piece_sizes():
        shown, filter_ = feed(printed + panic, sizes)
        assert (shown, filter_.held, filter_.has_panic) == (printed, panic, True)


@pytest.mark.parametrize("text", [b"\xff\x00binary[\x1b[[K", b"[  1" * 50, b"Kernel pan", PANIC])
def test_released_and_shown_output_is_all_the_output(text: bytes) -> None:
    for sizes in piece_sizes():
        shown, filter_ = feed(text, sizes)
        assert shown + filter_.release() == text
        assert filter_.feed(b"x") == b"x"


@pytest.mark.parametrize(
    ("text", "held"),
    [
        (b"abc", b""),
        (b"abc[", b"["),
        (b"abc[a", b""),
        (b"ls [1", b"[1"),
        (b"[    1.25]", b"[    1.25]"),
        (b"[    1.25] x", b""),
        (b"[    1.25] Kernel pa", b"[    1.25] Kernel pa"),
        (b"[    1.25] Kernel pi", b""),
        (b"[  1 2", b""),
        (b"\x1b[1;31m", b""),
        (b"K", b"K"),
    ],
)
def test_only_the_beginning_of_a_panic_is_held_back(text: bytes, held: bytes) -> None:
    filter_ = PanicFilter()
    assert filter_.feed(text) == text.removesuffix(held)
    assert filter_.held == held


def test_endless_lines_of_the_kernel_are_shown() -> None:
    lines = b"[    4.1] a line\r\n" * 5000
    filter_ = PanicFilter()
    shown = filter_.feed(PANIC)
    for at in range(0, len(lines), 4096):
        shown += filter_.feed(lines[at : at + 4096])
    assert shown.startswith(PANIC)
    assert shown + filter_.release() == PANIC + lines


@pytest.mark.parametrize(
    "piece",
    [
        b"[",
        b"[ ",
        b"[    1",
        b"1",
        b" ",
        b"K",
        b"[1.1] ",
        b"[1.1][T",
        b"Kernel panic - ",
        PANIC,
        PANIC + b"x\n",
    ],
)
def test_any_output_is_examined_in_linear_time(piece: bytes) -> None:
    text = piece * ((1 << 20) // len(piece))
    began = time.process_time()
    filter_ = PanicFilter()
    shown = b"".join(filter_.feed(text[at : at + 65536]) for at in range(0, len(text), 65536))
    assert shown + filter_.held == text
    assert time.process_time() - began < 3


class Console:
    """A ConsoleSink that writes to a pipe, with a relay that reads what a test writes."""

    def __init__(self, *, shows_all: bool = False) -> None:
        self.loop = Loop()
        self.reader, self.writer = os.pipe()
        self.source, self.input = os.pipe()
        os.set_blocking(self.reader, False)
        self.sink = ConsoleSink(self.writer, self.loop, shows_all=shows_all)
        self.relay = Relay(self.loop, self.source, self.sink)

    def write(self, data: bytes, seconds: float = 0.0) -> bytes:
        """Write console output, run the loop for some time, and return what was shown."""
        os.write(self.input, data)
        self.loop.run(lambda: False, 0)
        self.loop.run(lambda: False, seconds)
        return self.shown()

    def shown(self) -> bytes:
        try:
            return os.read(self.reader, 1 << 20)
        except BlockingIOError:
            return b""

    def close(self) -> None:
        self.relay.stop()
        for number in (self.reader, self.writer, self.source, self.input):
            os.close(number)


@pytest.fixture
def console() -> Iterator[Console]:
    with closing(Console()) as console:
        yield console


def test_typed_bracket_is_shown_after_a_short_time(console: Console) -> None:
    assert console.write(b"/ # [") == b"/ # "
    assert console.write(b"", 0.2) == b"["
    assert console.write(b"a") == b"a"
    console.sink.close()


def test_panic_of_a_machine_that_goes_on_is_shown_after_two_seconds(console: Console) -> None:
    assert console.write(b"x" + PANIC, 0.5) == b"x"
    assert console.write(b"", 2.0) == PANIC
    console.sink.close()


def test_panic_is_shown_at_the_end_unless_it_is_dropped(console: Console) -> None:
    assert console.write(PANIC) == b""
    console.sink.close()
    assert console.shown() == PANIC


def test_dropped_panic_is_not_shown(console: Console) -> None:
    assert console.write(b"$ " + PANIC) == b"$ "
    console.sink.drop_panic()
    console.sink.close()
    assert console.shown() == b""


def test_nothing_is_held_back_on_request() -> None:
    with closing(Console(shows_all=True)) as console:
        assert console.write(b"[" + PANIC) == b"[" + PANIC
        console.sink.drop_panic()
        console.sink.close()


def test_cursor_of_a_terminal_is_at_a_new_line_after_a_dropped_panic() -> None:
    controller, terminal = os.openpty()
    for text, expected in ((b"$ ", b"$ \r\n"), (b"a\r\n", b"a\r\n")):
        sink = ConsoleSink(terminal, Loop(), shows_all=False)
        sink.write(text.replace(b"\r", b"") + PANIC)
        sink.drop_panic()
        sink.close()
        shown = b""
        while len(shown) < len(expected) and is_ready(controller, READABLE, 5):
            shown += os.read(controller, 100).replace(b"\r\r", b"\r")
        assert shown == expected
        assert not is_ready(controller, READABLE)
    os.close(controller)
    os.close(terminal)


def test_output_for_a_slow_reader_is_complete_and_in_order(console: Console) -> None:
    data = b"".join(b"%d [" % number for number in range(100_000))
    received, rest = b"", data
    while rest:
        rest = rest[os.write(console.input, rest[:4096]) :]
        console.loop.run(lambda: False, 0)
        if len(rest) % 7 == 0:
            received += console.shown()
        if console.relay.count < len(data) - len(rest):
            received += console.shown()
    for _ in range(1000):
        console.loop.run(lambda: False, 0)
        received += console.shown()
    console.loop.run(lambda: False, 0.2)
    received += console.shown()
    assert received == data
    console.sink.close()


def test_panic_after_output_that_a_slow_reader_has_not_taken_is_held_back(console: Console) -> None:
    os.set_blocking(console.writer, False)
    filled = os.write(console.writer, bytes(1 << 20))
    os.write(console.input, b"x" + PANIC)
    console.loop.run(lambda: False, 2.5)
    assert not console.sink.is_written
    assert console.shown() == bytes(filled)
    console.loop.run(lambda: console.sink.is_written, 5)
    assert console.shown() == b"x"
    console.sink.drop_panic()
    console.sink.close()
    assert console.shown() == b""


def test_output_without_a_reader_is_dropped(console: Console) -> None:
    os.close(console.reader)
    os.write(console.input, b"x" + PANIC)
    console.loop.run(lambda: False, 0.1)
    console.sink.close()
    console.reader = os.open(os.devnull, os.O_RDONLY)
