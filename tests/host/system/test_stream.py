"""Bytes from one descriptor to another: all of them, in order, at the pace of the reader."""

import errno
import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from initrd.host.system import stream
from initrd.host.system.loop import READABLE, Loop
from initrd.host.system.stream import Relay, Sink, StderrPipe, open_source
from initrd.host.virtiofsd.serve import ConnectedListener


class Pipe:
    """Two ends, closed in the end."""

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


def test_all_bytes_arrive_in_order(pipes: tuple[Pipe, Pipe]) -> None:
    open_source, target = pipes
    loop, data = Loop(), bytes(range(256)) * 100
    with closing(Sink(target.writer)) as sink:
        relay = Relay(loop, open_source.reader, sink)
        os.write(open_source.writer, data)
        open_source.close_writer()
        assert loop.run(lambda: relay.ended, 10)
    assert (target.drain(), relay.count) == (data, len(data))


def test_a_slow_reader_stops_the_writer_and_loses_nothing(pipes: tuple[Pipe, Pipe]) -> None:
    open_source, target = pipes
    loop, sent, received = Loop(), 0, b""
    os.set_blocking(open_source.writer, False)
    with closing(Sink(target.writer)) as sink:
        relay = Relay(loop, open_source.reader, sink)
        for _ in range(100):
            try:
                sent += os.write(open_source.writer, b"x" * 65536)
            except BlockingIOError:
                pass
            loop.run(lambda: False, 0)
        assert sent < 20 * 65536  # two pipes full, and a piece
        open_source.close_writer()
        while not relay.ended:
            received += target.drain()
            loop.run(lambda: relay.ended, 0.01)
    assert len(received + target.drain()) == sent


def test_a_reader_that_goes_away_is_told_once_and_the_writer_goes_on(
    pipes: tuple[Pipe, Pipe],
) -> None:
    open_source, target = pipes
    loop, told = Loop(), []
    with closing(Sink(target.writer)) as sink:
        relay = Relay(loop, open_source.reader, sink)
        relay.on_write_error = lambda error: told.append(error.errno)
        target.close_reader()
        for _ in range(3):
            os.write(open_source.writer, b"more")
            loop.run(lambda: False, 0)
        open_source.close_writer()
        assert loop.run(lambda: relay.ended, 10)
    assert (told, relay.count) == ([errno.EPIPE], 12)


def test_what_passes_can_be_seen(pipes: tuple[Pipe, Pipe]) -> None:
    seen: list[bytes] = []
    relay = Relay(loop := Loop(), pipes[0].reader, None, seen.append)
    os.write(pipes[0].writer, b"one")
    loop.run(lambda: bool(seen), 10)
    relay.stop()
    assert seen == [b"one"]


def test_both_directions_of_a_socket_are_two_streams(pipes: tuple[Pipe, Pipe]) -> None:
    keyboard, screen = pipes
    loop = Loop()
    ours, theirs = socket.socketpair()
    with ours, theirs, closing(Sink(ours.fileno())) as typed, closing(Sink(screen.writer)) as shown:
        keys = Relay(loop, keyboard.reader, typed)
        Relay(loop, ours.fileno(), shown)
        os.write(keyboard.writer, b"ls\n")
        keyboard.close_writer()
        loop.run(lambda: keys.ended, 10)
        theirs.sendall(theirs.recv(100).upper())
        loop.run(lambda: False, 0.05)
    assert screen.drain() == b"LS\n"


@pytest.mark.parametrize("kind", ["pipe", "socket", "file", "terminal", "null"])
def test_a_sink_does_not_change_what_it_was_given(kind: str, tmp_path: Path) -> None:
    with ExitStack() as stack:
        descriptor = open_one(kind, tmp_path, stack)
        blocking = os.get_blocking(descriptor)
        with closing(Sink(descriptor)) as sink:
            assert sink.write(b"x") == 1
            assert os.get_blocking(descriptor) == blocking
        assert os.write(descriptor, b"y") == 1


def open_one(kind: str, folder: Path, stack: ExitStack) -> int:
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
def test_a_sink_that_is_full_takes_nothing_and_does_not_wait(kind: str, tmp_path: Path) -> None:
    with ExitStack() as stack:
        sink = stack.enter_context(closing(Sink(open_one(kind, tmp_path, stack))))
        written = [sink.write(b"x" * 65536) for _ in range(100)]
    assert written[0] > 0
    assert written[-1] == 0


def test_a_full_pipe_of_somebody_else_does_not_stop_us(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream, "_open_again", lambda *_: -1)  # as when it belongs to root
    test_a_sink_that_is_full_takes_nothing_and_does_not_wait("pipe", tmp_path)


@pytest.mark.parametrize("kind", ["pipe", "terminal", "file"])
def test_a_source_that_others_read_too_is_not_waited_for(kind: str, tmp_path: Path) -> None:
    with ExitStack() as stack:
        if kind == "pipe":
            pipe = stack.enter_context(closing(Pipe()))
            descriptor = pipe.reader
        else:
            descriptor = open_one(kind, tmp_path, stack)
        blocking = os.get_blocking(descriptor)
        with open_source(descriptor) as ours:
            assert os.get_blocking(ours) == (kind == "file")
            assert (ours == descriptor) == (kind == "file")
        assert os.get_blocking(descriptor) == blocking


def test_a_file_is_written_where_its_offset_is(tmp_path: Path) -> None:
    with open(tmp_path / "log", "wb", buffering=0) as file:
        file.write(b"before ")
        with closing(Sink(file.fileno())) as sink:
            sink.write(b"between ")
        file.write(b"after")
    assert (tmp_path / "log").read_bytes() == b"before between after"


def test_the_loop_gives_up_when_time_is_up() -> None:
    assert not Loop().run(lambda: False, 0.01)
    assert Loop().run(lambda: True, 0)


def test_a_watcher_may_drop_another(pipes: tuple[Pipe, Pipe]) -> None:
    loop, called = Loop(), []

    def drop(mine: Pipe, other: Pipe) -> None:
        called.append(mine)
        loop.ignore(other.reader)

    for mine, other in (pipes, pipes[::-1]):
        os.write(mine.writer, b"x")
        loop.watch(mine.reader, READABLE, lambda _, m=mine, o=other: drop(m, o))
    loop.run(lambda: bool(called), 10)
    assert len(called) == 1


def test_the_last_words_are_kept(pipes: tuple[Pipe, Pipe]) -> None:
    heard: list[bytes] = []
    with StderrPipe(Loop(), heard.append) as words:
        os.write(words.writer, b"line\n" * 5000 + b"cannot go on\n")
        assert words.last().endswith("line; cannot go on")
        assert words.last().count("line") < 5
    assert b"".join(heard).endswith(b"cannot go on\n")


def test_a_rendezvous_is_a_connection_that_nobody_else_can_find(tmp_path: Path) -> None:
    with ConnectedListener(str(tmp_path)) as meeting:
        assert list(tmp_path.iterdir()) == []
        server, _ = meeting.listener.accept()
        with server:
            meeting.connection.sendall(b"hello")
            assert server.recv(10) == b"hello"


def test_a_rendezvous_in_a_directory_with_a_long_name(tmp_path: Path) -> None:
    folder = tmp_path / ("x" * 200)
    folder.mkdir()
    with ConnectedListener(str(folder)) as meeting:
        assert meeting.listener.accept()[0].close() is None  # type: ignore[func-returns-value]
