"""Messages of chrootvm on a terminal."""

import contextlib
import os
import termios
import time
import tracemalloc
from collections.abc import Iterator
from contextlib import closing

import pytest

from initrd.host.system import terminal
from initrd.host.system.loop import READABLE, Loop, is_ready
from initrd.host.system.terminal import ConsoleKeys, EscapeKey, MessageWriter, RawTerminal


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        pytest.param([(0.0, b"\x1d\x1d\x1d")], True, id="at once"),
        pytest.param([(0.0, b"\x1d"), (0.5, b"\x1d"), (1.0, b"\x1d")], True, id="within a second"),
        pytest.param([(0.0, b"\x1d"), (0.5, b"\x1d"), (1.1, b"\x1d")], False, id="too slow"),
        pytest.param(
            [(0.0, b"\x1d"), (0.9, b"\x1d"), (1.1, b"\x1d"), (1.2, b"\x1d")],
            True,
            id="the last three",
        ),
        pytest.param([(0.0, b"\x1d\x1d"), (0.1, b"a\x1d")], False, id="another key between"),
        pytest.param([(0.0, b"\x1d\x1d")], False, id="twice"),
        pytest.param([(0.0, b"ab\x1d\x1d\x1dcd"), (9.0, b"x")], True, id="in other keys"),
        pytest.param([(0.0, b"\x1b\x1c\x1e")], False, id="other control keys"),
        pytest.param([(0.0, b"")], False, id="nothing"),
    ],
)
def test_escape_key_is_complete_after_three_times_in_a_second(
    keys: list[tuple[float, bytes]], expected: bool
) -> None:
    escape = EscapeKey()
    for now, piece in keys:
        escape.feed(piece, now)
    assert escape.is_complete is expected


def fill(writer: int) -> None:
    """Fill a pipe."""
    os.set_blocking(writer, False)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(writer, b"x" * 4096)
    os.set_blocking(writer, True)


def read_all(reader: int) -> bytes:
    """Read what is in a pipe now."""
    data = b""
    while is_ready(reader, READABLE):
        data += os.read(reader, 1 << 20)
    return data


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    reader, writer = os.pipe()
    yield reader, writer
    os.close(reader)
    os.close(writer)


def test_message_is_written_at_once(pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    with closing(MessageWriter(Loop(), writer)) as messages:
        messages.print_message("a \x1b[2J")
        assert read_all(reader) == b"chrootvm: a \\x1b[2J\n"
        messages.print_output_of(b"of\tQEMU\x1b\n\xff")
        assert read_all(reader) == b"of\tQEMU\\x1b\n\\xff"
    MessageWriter(None, writer).print_message("b")
    assert read_all(reader) == b"chrootvm: b\n"


def test_messages_that_nobody_reads_do_not_block_and_are_counted(pipe: tuple[int, int]) -> None:
    reader, writer = pipe
    fill(writer)
    before, loop = len(read_all(reader)), Loop()
    fill(writer)
    with closing(MessageWriter(loop, writer)) as messages:
        tracemalloc.start()
        try:
            for number in range(100_000):
                messages.print_message(f"{number}")
            kept, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert kept < 300_000
        loop.run(lambda: False, 0)
        text = b""
        for _ in range(100):
            loop.run(lambda: False, 0)
            text += read_all(reader)
        lines = text[before:].decode().splitlines()
        *written, note = lines
        assert written == [f"chrootvm: {number}" for number in range(len(written))]
        assert len(written) > 1000
        left_out = 100_000 - len(written)
        assert note == (
            f"chrootvm: {left_out} messages are left out: standard error did not take them"
        )


@pytest.mark.parametrize("with_loop", [False, True])
def test_blocked_standard_error_holds_up_the_end_for_a_limited_time(
    pipe: tuple[int, int], *, with_loop: bool
) -> None:
    fill(pipe[1])
    began = time.monotonic()
    with closing(MessageWriter(Loop() if with_loop else None, pipe[1])) as messages:
        messages.print_message("x")
    assert 1 < time.monotonic() - began < 60


def test_closed_standard_error_is_no_error() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with closing(MessageWriter(Loop(), writer)) as messages:
        messages.print_message("x")
        messages.print_message("y")
    os.close(writer)
    with closing(MessageWriter(Loop(), writer)) as messages:
        messages.print_message("z")


def test_flags_of_the_shared_pipe_are_not_changed(pipe: tuple[int, int]) -> None:
    with closing(MessageWriter(Loop(), pipe[1])) as messages:
        messages.print_message("x")
        assert os.get_blocking(pipe[1])


def test_closed_writer_keeps_no_descriptor_and_opens_standard_error_again(
    pipe: tuple[int, int],
) -> None:
    before = len(os.listdir("/proc/self/fd"))
    messages = MessageWriter(Loop(), pipe[1])
    messages.print_message("x")
    messages.close()
    assert len(os.listdir("/proc/self/fd")) == before
    messages.print_message("y")
    messages.close()
    assert read_all(pipe[0]) == b"chrootvm: x\nchrootvm: y\n"


@pytest.mark.parametrize(
    ("pieces", "typed"),
    [
        pytest.param([b"plain \x1b[A\x03"], b"plain \x1b[A\x03", id="other keys"),
        pytest.param([b"a\x01\x01b"], b"a\x01b", id="Ctrl-A twice"),
        pytest.param([b"\x01", b"a", b"a"], b"\x01a", id="Ctrl-A A"),
        pytest.param([b"\x01\x01\x01\x01"], b"\x01\x01", id="Ctrl-A four times"),
        pytest.param([b"1\x01c2\x01s3\x01\x034"], b"1234", id="keys without a meaning"),
        pytest.param([b"\x01"], b"", id="half of it"),
        pytest.param([b"\x01\x01x"], b"\x01x", id="X after two"),
        pytest.param([b""], b"", id="nothing"),
    ],
)
def test_keys_of_the_console_are_sent_to_the_guest(pieces: list[bytes], typed: bytes) -> None:
    helps: list[str] = []
    keys = ConsoleKeys(lambda: helps.append("help"))
    assert b"".join(map(keys.translate, pieces)) == typed
    assert (keys.is_complete, helps) == (False, [])


@pytest.mark.parametrize("pieces", [[b"a\x01xb"], [b"a\x01", b"Xb"]], ids=["at once", "in two"])
def test_ctrl_a_x_ends_the_machine(pieces: list[bytes]) -> None:
    keys = ConsoleKeys(lambda: None)
    assert b"".join(map(keys.translate, pieces)) == b"ab"
    assert keys.is_complete


def test_ctrl_a_h_prints_help_and_sends_nothing() -> None:
    helps: list[str] = []
    keys = ConsoleKeys(lambda: helps.append("help"))
    assert keys.translate(b"\x01hh\x01H") == b"h"
    assert helps == ["help", "help"]


def test_raw_terminal_gets_its_modes_back_while_the_process_is_stopped() -> None:
    master, tty = os.openpty()
    try:
        before = termios.tcgetattr(tty)
        with RawTerminal(tty) as entered:
            raw = termios.tcgetattr(tty)
            assert raw != before
            entered.suspend()
            assert (termios.tcgetattr(tty), entered.is_raw) == (before, False)
            assert entered.resume()
            assert (termios.tcgetattr(tty), entered.is_raw) == (raw, True)
        assert termios.tcgetattr(tty) == before
    finally:
        os.close(master)
        os.close(tty)


def test_lines_of_messages_end_as_the_modes_of_the_terminal_require(
    pipe: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    reader, writer = pipe
    master, tty = os.openpty()
    monkeypatch.setattr(terminal, "STDIN", tty)
    messages = MessageWriter(descriptor=writer)
    messages.print_lines("a")
    with messages.raw() as entered:
        messages.print_lines("b")
        entered.suspend()
        messages.print_lines("c")
        entered.resume()
        messages.print_lines("d")
    messages.print_lines("e")
    assert os.read(reader, 100) == b"a\nb\r\nc\nd\r\ne\n"
    os.close(master)
    os.close(tty)
