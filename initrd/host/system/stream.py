"""Descriptors of ours as streams: how to use them without ever being stuck.

Standard output and its like are shared with other programs, so O_NONBLOCK must not be set on them:
that would change them for everybody. They are opened a second time where that is possible.
"""

import os
import socket
import stat
from contextlib import contextmanager

from initrd.host.system.loop import READABLE, WRITABLE, Loop, is_ready

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Self

_SAFE = 4096  # bytes that a pipe takes without blocking when it is writable (PIPE_BUF, pipe(7))
_PIECE = 1 << 16  # bytes read at once
_KEPT = 4096  # bytes


class Sink:
    """Something to write to. `write` takes what it can and never waits."""

    def __init__(self, descriptor: int) -> None:
        mode = os.fstat(descriptor).st_mode
        opened = _open_again(descriptor, os.O_WRONLY)
        self.descriptor = os.dup(descriptor) if opened < 0 else opened
        self._careful = opened < 0 and not stat.S_ISREG(mode)
        is_socket = stat.S_ISSOCK(mode)
        self._socket = socket.socket(fileno=self.descriptor) if is_socket else None

    def write(self, data: "bytes | memoryview") -> int:
        """Write some of `data`; return how much. Raises OSError, BrokenPipeError among them."""
        try:
            if self._socket:
                return self._socket.send(data, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
            if self._careful and not is_ready(self.descriptor, WRITABLE):
                return 0
            return os.write(self.descriptor, data[:_SAFE] if self._careful else data)
        except BlockingIOError:
            return 0

    def close(self) -> None:
        """Close our own descriptor; the one that was given stays open."""
        if self._socket:
            self._socket.close()
        else:
            os.close(self.descriptor)


@contextmanager
def open_source(descriptor: int) -> "Iterator[int]":
    """Give a descriptor from which reading does not wait, where another program reads the same."""
    opened = _open_again(descriptor, os.O_RDONLY)
    try:
        yield descriptor if opened < 0 else opened
    finally:
        if opened >= 0:
            os.close(opened)


def _open_again(descriptor: int, mode: int) -> int:
    """Return a non-blocking descriptor of the same pipe or terminal; -1 where there is none."""
    if not (stat.S_ISFIFO(os.fstat(descriptor).st_mode) or os.isatty(descriptor)):
        return -1
    try:
        flags = mode | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
        return os.open(f"/proc/self/fd/{descriptor}", flags)
    except OSError:  # no /proc, or somebody else's: then it is written to in small pieces
        return -1


def _nothing(*_: object) -> None:
    pass


class Relay:
    """One direction of one stream. `see` is shown every piece; the other calls come once."""

    def __init__(
        self,
        loop: Loop,
        source: int,
        sink: Sink | None,
        see: "Callable[[bytes], object]" = _nothing,
    ) -> None:
        self._loop, self._source, self._sink, self._see = loop, source, sink, see
        self._held = memoryview(b"")
        self.count = 0  # bytes read from the source
        self.ended = False  # the source has no more, and all of it is written
        self.on_end: Callable[[], object] = _nothing
        self.on_write_error: Callable[[OSError], object] = _nothing  # the sink takes no more
        loop.watch(source, READABLE, self._read)

    @property
    def idle(self) -> bool:
        """Whether everything that was read is written."""
        return not self._held

    def stop(self) -> None:
        """Neither read nor write any more; what is held is lost."""
        self._loop.ignore(self._source)
        if self._sink:
            self._loop.ignore(self._sink.descriptor)
        self._sink, self.ended = None, True

    def read_now(self) -> None:
        """Read what is there already."""
        while not self.ended and self.idle and is_ready(self._source, READABLE):
            self._read(0)

    def _read(self, _: int) -> None:
        try:
            data = os.read(self._source, _PIECE)
        except BlockingIOError:  # somebody else who has the same stream was faster
            return
        except OSError:  # ECONNRESET: QEMU is gone; EIO: the terminal is
            data = b""
        if not data:
            self.stop()
            self.on_end()
            return
        self.count += len(data)
        self._see(data)
        self._held = memoryview(data)
        self._write()
        if self._sink and self._held:  # it is full: nothing more is read until it takes this
            self._loop.ignore(self._source)
            self._loop.watch(self._sink.descriptor, WRITABLE, self._write_rest)

    def _write(self) -> None:
        try:
            written = self._sink.write(self._held) if self._sink else len(self._held)
            self._held = self._held[written:]
        except OSError as error:  # EPIPE: the reader has gone; ENOSPC: it is no use to go on
            # What is read from here on is dropped: whoever writes to us must not be stopped.
            sink, self._sink, self._held = self._sink, None, memoryview(b"")
            if sink:
                self._loop.ignore(sink.descriptor)
            self.on_write_error(error)

    def _write_rest(self, _: int) -> None:
        sink = self._sink
        self._write()
        if not self._held and not self.ended:
            if sink:
                self._loop.ignore(sink.descriptor)
            self._loop.watch(self._source, READABLE, self._read)


class StderrPipe:
    """A pipe for a program's standard error. `writer` is its end of it."""

    def __init__(self, loop: Loop, see: "Callable[[bytes], object]") -> None:
        self._see, self._said = see, b""
        self._reader, self.writer = os.pipe()
        self._relay = Relay(loop, self._reader, None, self._hear)

    def __enter__(self) -> "Self":
        return self

    def __exit__(self, *_: object) -> None:
        self._relay.stop()
        os.close(self._reader)
        os.close(self.writer)

    def _hear(self, data: bytes) -> None:
        self._said = (self._said + data)[-_KEPT:]
        self._see(data)

    def last(self) -> str:
        """Return the last lines that were said so far, in one."""
        self._relay.read_now()
        lines = self._said.decode(errors="replace").split("\n")
        return "; ".join(line.strip() for line in lines[-4:] if line.strip())
