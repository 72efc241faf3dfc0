"""Sinks, sources and relays: every byte arrives in order, and no call blocks."""

import errno
import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from initrd.host.system import stream
from initrd.host.system.hosterror import HostError
from initrd.host.system.loop import Loop
from initrd.host.system.stream import (
    KeyboardRelay,
    Relay,
    Sink,
    StderrPipe,
    open_source,
    send_now,
)
from initrd.host.virtiofsd.serve import ConnectedListener


class Pipe:
    """A pipe; `close` closes the ends that are still open."""

    def __init__(self) -> None:
        self.reader, self.writer = os.pipe()

    def drain(self) -> bytes:
        os.set_blocking(self.reader, False)
        pieces = []
        try:
            while piece := os.read(self.reader, 1 << 20):
                pieces.append(piece)
        except BlockingIOError:
            pass
        return b"".join(pieces)

    def close_writer(self) -> None:
        os.close(self.writer)
        self.writer = -1

    def close_reader(self) -> None:
        os.close(self.reader)
        self.reader = -1

    def close(self) -> None:
        for end in (self.reader, self.writer):
            if end >= 0:
                os.close(end)


@pytest.fixture
def pipes() -> Iterator[tuple[Pipe, Pipe]]:
    with closing(Pipe()) as one, closing(Pipe()) as other:
        yield one, other


def test_a_keyboard_relay_reads_on_when_the_sink_is_full(pipes: tuple[Pipe, Pipe]) -> None:
    source, target = pipes
    loop, seen, written, received = Loop(), bytearray(), bytearray(), b""
    with closing(Sink(target.writer)) as sink:
        relay = KeyboardRelay(loop, source.reader, sink, seen.extend)
        while len(written) < 2_000_000:
            written += b"%07d " % len(written) * 500
            os.write(source.writer, written[-4000:])
            loop.run(lambda: False, 0)
        assert seen == written
        for _ in range(100):
            received += target.drain()
            loop.run(lambda: False, 0)
        assert received == written[: len(received)]
        assert 1 << 18 <= len(received) < 1 << 20
        os.write(source.writer, b"more")
        loop.run(lambda: False, 0)
        assert target.drain() == b"more"
        relay.stop()


def test_a_keyboard_relay_writes_what_its_translation_returns(pipes: tuple[Pipe, Pipe]) -> None:
    source, target = pipes
    loop, seen = Loop(), bytearray()
    with closing(Sink(target.writer)) as sink:
        relay = KeyboardRelay(loop, source.reader, sink, seen.extend)
        relay.translate = bytes.upper
        os.write(source.writer, b"keys")
        loop.run(lambda: False, 0)
        relay.stop()
    assert (seen, target.drain()) == (b"keys", b"KEYS")


def test_a_relay_copies_all_bytes_in_order(pipes: tuple[Pipe, Pipe]) -> None:
    source, target = pipes
    loop, data = Loop(), bytes(range(256)) * 100
    with closing(Sink(target.writer)) as sink:
        relay = Relay(loop, source.reader, sink)
        os.write(source.writer, data)
        source.close_writer()
        assert loop.run(lambda: relay.ended, 10)
    assert (target.drain(), relay.count) == (data, len(data))


def test_a_relay_to_a_slow_reader_blocks_the_writer_and_loses_no_bytes(
    pipes: tuple[Pipe, Pipe],
) -> None:
    source, target = pipes
    loop, sent, received = Loop(), 0, b""
    os.set_blocking(source.writer, False)
    with closing(Sink(target.writer)) as sink:
        relay = Relay(loop, source.reader, sink)
        for _ in range(100):
            try:
                sent += os.write(source.writer, b"x" * 65536)
            except BlockingIOError:
                pass
            loop.run(lambda: False, 0)
        assert sent < 20 * 65536  # two pipes full, and a piece
        source.close_writer()
        while not relay.ended:
            received += target.drain()
            loop.run(lambda: relay.ended, 0.01)
    assert len(received + target.drain()) == sent


def test_a_relay_reports_a_closed_sink_once_and_keeps_reading_its_source(
    pipes: tuple[Pipe, Pipe],
) -> None:
    source, target = pipes
    loop, errors = Loop(), []
    with closing(Sink(target.writer)) as sink:
        relay = Relay(loop, source.reader, sink)
        relay.on_write_error = lambda error: errors.append(error.errno)
        target.close_reader()
        for _ in range(3):
            os.write(source.writer, b"more")
            loop.run(lambda: False, 0)
        source.close_writer()
        assert loop.run(lambda: relay.ended, 10)
    assert (errors, relay.count) == ([errno.EPIPE], 12)


def test_a_relay_passes_its_data_to_an_observer(pipes: tuple[Pipe, Pipe]) -> None:
    seen: list[bytes] = []
    relay = Relay(loop := Loop(), pipes[0].reader, None, seen.append)
    os.write(pipes[0].writer, b"one")
    loop.run(lambda: bool(seen), 10)
    relay.stop()
    assert seen == [b"one"]


def test_two_relays_use_both_directions_of_a_socket(pipes: tuple[Pipe, Pipe]) -> None:
    keyboard, screen = pipes
    loop = Loop()
    near, far = socket.socketpair()
    with near, far, closing(Sink(near.fileno())) as typed, closing(Sink(screen.writer)) as shown:
        keys = Relay(loop, keyboard.reader, typed)
        Relay(loop, near.fileno(), shown)
        os.write(keyboard.writer, b"ls\n")
        keyboard.close_writer()
        loop.run(lambda: keys.ended, 10)
        far.sendall(far.recv(100).upper())
        loop.run(lambda: False, 0.05)
    assert screen.drain() == b"LS\n"


@pytest.mark.parametrize("kind", ["pipe", "socket", "file", "terminal", "null"])
def test_a_sink_leaves_its_descriptor_open_and_in_blocking_mode(kind: str, tmp_path: Path) -> None:
    with ExitStack() as stack:
        descriptor = open_descriptor(kind, tmp_path, stack)
        blocking = os.get_blocking(descriptor)
        with closing(Sink(descriptor)) as sink:
            assert sink.write(b"x") == 1
            assert os.get_blocking(descriptor) == blocking
        assert os.write(descriptor, b"y") == 1


def open_descriptor(kind: str, folder: Path, stack: ExitStack) -> int:
    if kind == "pipe":
        return stack.enter_context(closing(Pipe())).writer
    if kind == "socket":
        ends = socket.socketpair()
        stack.callback(ends[0].close)
        return stack.enter_context(ends[1]).fileno()
    if kind == "terminal":
        ends = os.openpty()
        stack.callback(os.close, ends[0])
        stack.callback(os.close, ends[1])
        return ends[1]
    path = "/dev/null" if kind == "null" else str(folder / "file")
    return stack.enter_context(open(path, "wb", buffering=0)).fileno()


@pytest.mark.parametrize("kind", ["pipe", "socket"])
def test_writing_to_a_full_sink_returns_zero_and_does_not_block(kind: str, tmp_path: Path) -> None:
    with ExitStack() as stack:
        sink = stack.enter_context(closing(Sink(open_descriptor(kind, tmp_path, stack))))
        written = [sink.write(b"x" * 65536) for _ in range(100)]
    assert written[0] > 0
    assert written[-1] == 0


def test_writing_to_a_full_pipe_that_cannot_be_reopened_does_not_block(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As for a pipe that belongs to another user.
    monkeypatch.setattr(stream, "_reopen_nonblocking", lambda *_: -1)
    test_writing_to_a_full_sink_returns_zero_and_does_not_block("pipe", tmp_path)


@pytest.mark.parametrize("kind", ["pipe", "terminal", "file"])
def test_a_pipe_or_terminal_is_reopened_as_a_non_blocking_source(kind: str, tmp_path: Path) -> None:
    with ExitStack() as stack:
        if kind == "pipe":
            pipe = stack.enter_context(closing(Pipe()))
            descriptor = pipe.reader
        else:
            descriptor = open_descriptor(kind, tmp_path, stack)
        blocking = os.get_blocking(descriptor)
        with open_source(descriptor) as source:
            assert os.get_blocking(source) == (kind == "file")
            assert (source == descriptor) == (kind == "file")
        assert os.get_blocking(descriptor) == blocking


def test_a_sink_writes_to_a_file_at_its_current_offset(tmp_path: Path) -> None:
    with open(tmp_path / "log", "wb", buffering=0) as file:
        file.write(b"before ")
        with closing(Sink(file.fileno())) as sink:
            sink.write(b"between ")
        file.write(b"after")
    assert (tmp_path / "log").read_bytes() == b"before between after"


def test_a_stderr_pipe_keeps_the_last_lines(pipes: tuple[Pipe, Pipe]) -> None:
    seen: list[bytes] = []
    with StderrPipe(Loop(), seen.append) as stderr:
        os.write(stderr.writer, b"line\n" * 5000 + b"cannot go on\n")
        assert stderr.last_lines().endswith("line; cannot go on")
        assert stderr.last_lines().count("line") < 5
    assert b"".join(seen).endswith(b"cannot go on\n")


def test_a_connected_listener_leaves_no_socket_in_its_directory(tmp_path: Path) -> None:
    with ConnectedListener() as pair:
        pair.connect(str(tmp_path))
        assert list(tmp_path.iterdir()) == []
        server, _ = pair.listener.accept()
        with server:
            pair.connection.sendall(b"hello")
            assert server.recv(10) == b"hello"


def test_a_connected_listener_works_in_a_directory_with_a_long_name(tmp_path: Path) -> None:
    folder = tmp_path / ("x" * 200)
    folder.mkdir()
    with ConnectedListener() as pair:
        pair.connect(str(folder))
        assert pair.listener.accept()[0].close() is None  # type: ignore[func-returns-value]


def test_bytes_are_sent_without_waiting_until_the_other_end_is_closed() -> None:
    data = bytes(1 << 22)
    near, far = socket.socketpair()
    with near:
        with far:
            assert send_now(near, b"") == 0
            assert 0 < send_now(near, data) < len(data)
            assert send_now(near, data) == 0
        assert send_now(near, data) == len(data)


def test_bytes_that_cannot_be_sent_for_another_reason_are_not_counted_as_sent() -> None:
    with socket.socket(socket.AF_UNIX) as unconnected, pytest.raises(OSError, match="endpoint"):
        send_now(unconnected, b"x")


@pytest.mark.parametrize("kind", ["link", "readable", "gone"])
def test_a_connected_listener_refuses_a_directory_put_in_the_place_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    (tmp_path / "trap").mkdir()
    mkdir = os.mkdir

    def replace(path: str, mode: int) -> None:
        if kind == "link":
            os.symlink(tmp_path / "trap", path)
        elif kind == "readable":
            mkdir(path, 0o755)

    monkeypatch.setattr(os, "mkdir", replace)
    with (
        ConnectedListener() as pair,
        pytest.raises(HostError, match="cannot use the directory"),
    ):
        pair.connect(str(tmp_path))
    assert not os.listdir(tmp_path / "trap")
