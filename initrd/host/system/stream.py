"""Copy bytes between descriptors without blocking: sinks, sources, relays, a program's stderr.

Other programs share standard output and the like, so O_NONBLOCK must not be set on these
descriptors: it belongs to the open file description, which all of them have in common. A pipe or
terminal is opened a second time through /proc instead, where that is possible.
"""

import fcntl
import os
import socket
import stat
import sys
import termios
from contextlib import contextmanager

from initrd.host.system.loop import READABLE, WRITABLE, Loop, is_ready

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Self

_PIPE_BUF = 4096  # bytes that a writable pipe takes without blocking (pipe(7))
_READ_SIZE = 1 << 16  # bytes read at once
_STDERR_KEPT = 4096  # bytes
_KEYS_KEPT = 1 << 18  # bytes; a pasted text may be long


def send_now(connection: socket.socket, data: "bytes | bytearray | memoryview") -> int:
    """Send the beginning of `data`, without waiting; return the number of bytes sent.

    When the other end is closed, that is all of them: nobody will read the rest. Raises OSError.
    """
    try:
        return connection.send(data, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL) if data else 0
    except BlockingIOError:
        return 0
    except (BrokenPipeError, ConnectionResetError):
        return len(data)


class Sink:
    """A descriptor to write to. `write` writes as much as is possible without waiting."""

    def __init__(self, descriptor: int) -> None:
        mode = os.fstat(descriptor).st_mode
        reopened = _reopen_nonblocking(descriptor, os.O_WRONLY)
        self.descriptor = os.dup(descriptor) if reopened < 0 else reopened
        self._may_block = reopened < 0 and not stat.S_ISREG(mode)
        is_socket = stat.S_ISSOCK(mode)
        self._socket = socket.socket(fileno=self.descriptor) if is_socket else None

    def write(self, data: "bytes | memoryview") -> int:
        """Write the beginning of `data`; return the number of bytes written.

        Raises OSError: BrokenPipeError when the reader has gone.
        """
        try:
            if self._socket:
                return self._socket.send(data, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
            if self._may_block and not is_ready(self.descriptor, WRITABLE):
                return 0
            return os.write(self.descriptor, data[:_PIPE_BUF] if self._may_block else data)
        except BlockingIOError:
            return 0

    def close(self) -> None:
        """Close the copy of the descriptor; the descriptor that was passed in stays open."""
        if self._socket:
            self._socket.close()
        else:
            os.close(self.descriptor)


def count_unread(connection: socket.socket) -> int:
    """Return how many bytes were sent on a unix socket that its other end has not read.

    Source: SIOCOUTQ of the kernel's net/unix/af_unix.c; the number includes its own management.
    """
    buffer = bytearray(4)
    fcntl.ioctl(connection, termios.TIOCOUTQ, buffer)
    return int.from_bytes(buffer, sys.byteorder)


def close_connection(connection: socket.socket) -> None:
    """Close a socket, and the connection even if a forked process has a copy of the socket."""
    try:
        connection.shutdown(socket.SHUT_RDWR)
    except OSError:  # the other end is closed
        pass
    connection.close()


@contextmanager
def open_source(descriptor: int) -> "Iterator[int]":
    """Yield a descriptor to read from that does not block when another program reads the same."""
    reopened = _reopen_nonblocking(descriptor, os.O_RDONLY)
    try:
        yield descriptor if reopened < 0 else reopened
    finally:
        if reopened >= 0:
            os.close(reopened)


def _do_nothing(*_: object) -> None:
    pass


class Relay:
    """Copies one descriptor to a sink, as a loop runs. Without a sink the data is dropped.

    `on_data` is called with each piece read; `on_end` and `on_write_error` are called once.
    """

    def __init__(
        self,
        loop: Loop,
        source: int,
        sink: Sink | None,
        on_data: "Callable[[bytes], object]" = _do_nothing,
    ) -> None:
        self._loop, self._source, self._sink, self._on_data = loop, source, sink, on_data
        self._pending = memoryview(b"")  # read, and not written yet
        self.count = 0  # bytes read from the source
        self.ended = False  # the source is at its end, and all of it is written
        self.on_end: Callable[[], object] = _do_nothing
        self.on_write_error: Callable[[OSError], object] = _do_nothing
        loop.watch(source, READABLE, self._on_readable)

    @property
    def is_idle(self) -> bool:
        """Whether everything that was read is written."""
        return not self._pending

    def stop(self) -> None:
        """Stop reading and writing; pending data is lost."""
        self._loop.unwatch(self._source)
        if self._sink:
            self._loop.unwatch(self._sink.descriptor)
        self._sink, self.ended = None, True

    def read_available(self) -> None:
        """Read all that can be read without waiting."""
        while not self.ended and self.is_idle and is_ready(self._source, READABLE):
            self._on_readable(0)

    def _on_readable(self, _: int) -> None:
        try:
            data = os.read(self._source, _READ_SIZE)
        except BlockingIOError:  # another reader of the same stream has read the data
            return
        except OSError:  # ECONNRESET: QEMU has ended; EIO: the terminal has gone
            data = b""
        if not data:
            self.stop()
            self.on_end()
            return
        self.count += len(data)
        self._on_data(data)
        self._add_pending(data)
        self._write_pending()
        if self._sink and self._pending:
            self._wait_for_sink(self._sink)

    def _add_pending(self, data: bytes) -> None:
        self._pending = memoryview(data)

    def _wait_for_sink(self, sink: Sink) -> None:
        """Read no more until everything is written."""
        self._loop.unwatch(self._source)
        self._loop.watch(sink.descriptor, WRITABLE, self._on_writable)

    def _write_pending(self) -> None:
        try:
            written = self._sink.write(self._pending) if self._sink else len(self._pending)
            self._pending = self._pending[written:]
        except OSError as error:  # EPIPE: the reader has gone; ENOSPC: every write would fail
            # Data is read and dropped from here on, so that the program that writes is not blocked.
            sink, self._sink, self._pending = self._sink, None, memoryview(b"")
            if sink:
                self._loop.unwatch(sink.descriptor)
            self.on_write_error(error)

    def _on_writable(self, _: int) -> None:
        sink = self._sink
        self._write_pending()
        if not self._pending and not self.ended:
            if sink:
                self._loop.unwatch(sink.descriptor)
            self._loop.watch(self._source, READABLE, self._on_readable)


class KeyboardRelay(Relay):
    """Copies what is typed on a terminal, and reads on when the sink is full.

    So `on_data` also sees the keys that a guest does not read. Those that exceed the buffer of
    _KEYS_KEPT bytes are dropped. `translate` returns what is written for the keys that were read.
    """

    translate: "Callable[[bytes], bytes]" = staticmethod(bytes)

    def _add_pending(self, data: bytes) -> None:
        free = _KEYS_KEPT - len(self._pending)
        self._pending = memoryview(bytes(self._pending) + self.translate(data)[:free])

    def _wait_for_sink(self, sink: Sink) -> None:
        self._loop.watch(sink.descriptor, WRITABLE, self._on_writable)


class StderrPipe:
    """A pipe for a program's standard error; the program inherits `writer`.

    `on_data` is called with each piece that the program writes.
    """

    def __init__(self, loop: Loop, on_data: "Callable[[bytes], object]") -> None:
        self._on_data, self._output = on_data, b""
        self._reader, self.writer = os.pipe()
        self._relay = Relay(loop, self._reader, None, self._append_output)

    def __enter__(self) -> "Self":
        return self

    def __exit__(self, *_: object) -> None:
        self._relay.stop()
        os.close(self._reader)
        os.close(self.writer)

    def last_lines(self) -> str:
        """Return the last lines that the program has written, joined into one."""
        self._relay.read_available()
        lines = self._output.decode(errors="replace").split("\n")
        return "; ".join(line.strip() for line in lines[-4:] if line.strip())

    def _append_output(self, data: bytes) -> None:
        self._output = (self._output + data)[-_STDERR_KEPT:]
        self._on_data(data)


def _reopen_nonblocking(descriptor: int, mode: int) -> int:
    """Return a non-blocking descriptor of the same pipe or terminal; -1 where there is none."""
    if not (stat.S_ISFIFO(os.fstat(descriptor).st_mode) or os.isatty(descriptor)):
        return -1
    try:
        flags = mode | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
        return os.open(f"/proc/self/fd/{descriptor}", flags)
    except OSError:  # no /proc, or another user's terminal: `Sink` writes small pieces to it
        return -1
