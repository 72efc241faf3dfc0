"""Copy the command's standard streams between a pipe or a terminal and the virtio-serial ports.

The command never gets a port itself: a port can be opened only once, so `/dev/stdin` could not be
opened again, and a writer would not notice that the host no longer reads. The end of each stream is
reported to the host on the control port, with the number of bytes.
"""

import errno
import posix as os

from initrd.command import STREAMS, TERMINAL, Command
from initrd.guest import _syscalls
from initrd.guest._syscalls import POLLERR, POLLHUP, POLLIN, POLLNVAL, POLLOUT

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Protocol

    from initrd.guest.command.control import Messages
    from initrd.guest.command.users import User

    class Link(Protocol):
        """Connects streams to the host."""

        def input(self, name: str, sink: int, on_end: Callable[["Copy"], None]) -> "Copy":
            """Return the copy of a stream from the host to a descriptor."""

        def output(self, name: str, source: int, on_end: Callable[["Copy"], None]) -> "Copy":
            """Return the copy of a stream from a descriptor to the host."""


_BUFFER_SIZE = 1 << 16  # bytes: the capacity of a pipe
# A read of a port returns at most one buffer of its driver; readv(2) fills several segments.
SEGMENT_SIZE = 4096  # bytes
CLOSED_EVENTS = POLLERR | POLLHUP | POLLNVAL


class Copy:
    """One direction of one stream, non-blocking. A handler of `Loop`.

    Closes no descriptor; `on_end` is called once, when the copy ends.
    """

    def __init__(self, source: int, sink: int, on_end: "Callable[[Copy], None]") -> None:
        """Copy from `source` to `sink`, descriptors; -1 for a channel of `channels`."""
        self.source, self.sink = source, sink
        self.received = 0  # bytes read so far
        self.length: int | None = None  # bytes of the source in all, if known
        self.ended = False
        self.broken = False  # ended because the sink has no reader
        self._on_end = on_end
        self._pending = memoryview(b"")

    @property
    def has_pending(self) -> bool:
        """Whether bytes were read that the sink has not accepted yet."""
        return bool(self._pending)

    def poll_entries(self) -> "list[tuple[int, int]]":
        """Return what to poll(2) for."""
        raise NotImplementedError

    def handle_events(self, ready: "dict[int, int]") -> None:
        """Copy as much as possible without blocking."""
        raise NotImplementedError

    def set_length(self, count: int) -> None:
        """End the copy after `count` bytes in all."""
        self.length = count
        self._check_length()

    def end(self, *, broken: bool = False) -> None:
        """Stop copying, drop pending bytes, and call `on_end`; no effect after the first call."""
        if not self.ended:
            self.ended, self.broken = True, broken
            self._pending = self._pending[:0]
            self._on_end(self)

    def _check_length(self) -> None:
        if self.length is not None and self.received >= self.length and not self._pending:
            self.end()

    def _read_into(self, segments: "list[memoryview]") -> int:
        """Read the source; return the number of bytes, 0 at its end, -1 if there is nothing yet."""
        try:
            count = os.readv(self.source, segments)
        except BlockingIOError:
            return -1
        except OSError as error:
            if error.errno != errno.EIO:  # EIO: every process has closed the terminal
                raise
            count = 0
        if count == 0:
            self.end()
        self.received += count
        return count

    def _drain(self) -> None:
        """Write pending bytes to the sink."""
        try:
            while self._pending:
                self._pending = self._pending[os.write(self.sink, self._pending) :]
        except BlockingIOError:
            return
        except BrokenPipeError:
            self.end(broken=True)


class StreamCopy(Copy):
    """A copy between two descriptors."""

    def __init__(self, source: int, sink: int, on_end: "Callable[[Copy], None]") -> None:
        super().__init__(source, sink, on_end)
        self._buffer = memoryview(bytearray(_BUFFER_SIZE))
        starts = range(0, _BUFFER_SIZE, SEGMENT_SIZE)
        self._segments = [self._buffer[at : at + SEGMENT_SIZE] for at in starts]

    def poll_entries(self) -> "list[tuple[int, int]]":
        """Return what to poll(2) for. The sink is always included: it can be closed at any time."""
        if self.ended:
            return []
        if self._pending:
            return [(self.sink, POLLOUT)]
        return [(self.source, POLLIN), (self.sink, 0)]

    def handle_events(self, ready: "dict[int, int]") -> None:
        """Copy as much as possible without blocking."""
        if self.ended:  # another handler has ended this copy after poll(2)
            return
        if ready.get(self.sink, 0) & CLOSED_EVENTS:
            self.end(broken=True)
            return
        if not self._pending:
            count = self._read_into(self._segments)
            self._pending = self._buffer[: max(count, 0)]
        self._drain()
        self._check_length()


class PortLink:
    """Connects streams to virtio-serial ports: one for each stream."""

    def __init__(self, ports: "dict[str, int]") -> None:
        self._ports = ports

    def input(self, name: str, sink: int, on_end: "Callable[[Copy], None]") -> Copy:
        """Return the copy of a stream from the host to a descriptor."""
        return StreamCopy(self._ports[f"initrd.{name}"], sink, on_end)

    def output(self, name: str, source: int, on_end: "Callable[[Copy], None]") -> Copy:
        """Return the copy of a stream from a descriptor to the host."""
        return StreamCopy(source, self._ports[f"initrd.{name}"], on_end)


class Streams:
    """The streams of one command. The command's own descriptors are in `child_ends`."""

    def __init__(self, command: Command, link: "Link", control: "Messages") -> None:
        self._control = control
        self._link = link
        self._master = self._slave = -1
        self.inputs: dict[str, Copy] = {}
        self.outputs: dict[str, Copy] = {}
        self.child_ends: list[int] = []
        try:
            if command.tty:
                self._open_terminal(command.size)
            for fd in range(len(STREAMS)):
                self.child_ends.append(self._slave if fd in command.tty else self._open_pipe(fd))
        except OSError:  # too many open files
            self.close_child_ends()
            self.close()
            raise

    @property
    def terminal(self) -> int:
        """The descriptor of the command's terminal; -1 if the command has none."""
        return self._slave

    def copies(self) -> tuple[Copy, ...]:
        """Return the copies of all inputs and outputs."""
        return (*self.inputs.values(), *self.outputs.values())

    def chown_to(self, user: "User") -> None:
        """Let the command's user open the command's streams again, for instance `/dev/stdin`."""
        for fd in self.child_ends:
            os.fchown(fd, user.uid, -1 if fd == self._slave else user.gid)

    def close_child_ends(self) -> None:
        """Close the command's ends of the pipes, so that the end of a stream can be detected."""
        for fd in self.child_ends:
            if fd != self._slave:
                os.close(fd)

    def discard(self) -> None:
        """Close the pipes of streams without a terminal that no command uses."""
        for fd in self.child_ends:
            os.close(fd)
        for copy in self.inputs.values():
            os.close(copy.sink)
        for copy in self.outputs.values():
            os.close(copy.source)

    def resize(self, rows: int, columns: int) -> None:
        """Set the size of the terminal, if any; the kernel sends SIGWINCH to the command."""
        if self._master >= 0:
            _syscalls.set_terminal_size(self._master, rows, columns)

    def end_input(self, name: str, count: int) -> None:
        """End an input after `count` bytes in all: `eof` from the host."""
        if name in self.inputs:
            self.inputs[name].set_length(count)

    def close_output(self, name: str) -> None:
        """Close an output that has no reader; hang up the terminal: `closed` from the host."""
        if name in self.outputs:
            self.outputs[name].end(broken=True)
        if name == TERMINAL and self._master >= 0:
            self._close_master()

    def end_inputs(self) -> None:
        """Stop reading from the host, after the command has ended."""
        for copy in self.inputs.values():
            copy.end(broken=True)

    def close_slave(self) -> None:
        """Close the slave of the terminal, so that its output ends once it is read completely."""
        if self._slave >= 0:
            os.close(self._slave)
            self._slave = -1

    def close(self) -> None:
        """Close all that is open still: what other processes write to a stream is lost.

        A terminal hangs up. The command's own ends are closed by `close_child_ends`.
        """
        self.close_slave()
        for copy in self.copies():
            copy.end(broken=True)
        if self._master >= 0:
            self._close_master()

    def _close_master(self) -> None:
        self.inputs[TERMINAL].end(broken=True)
        os.close(self._master)
        self._master = -1

    def _open_terminal(self, size: tuple[int, int]) -> None:
        self._master, self._slave = os.openpty()
        os.set_blocking(self._master, False)
        _syscalls.set_terminal_utf8(self._slave)
        self.resize(*size)
        self.inputs[TERMINAL] = self._link.input(TERMINAL, self._master, lambda _copy: None)
        self.outputs[TERMINAL] = self._link.output(
            TERMINAL, self._master, lambda copy: self._end_output(TERMINAL, copy)
        )

    def _open_pipe(self, fd: int) -> int:
        """Open the pipe for descriptor `fd` of the command; return the command's end."""
        name = STREAMS[fd]
        reader, writer = os.pipe2(os.O_CLOEXEC)
        if fd == 0:
            os.set_blocking(writer, False)
            self.inputs[name] = self._link.input(name, writer, self._end_stdin)
            return reader
        os.set_blocking(reader, False)
        self.outputs[name] = self._link.output(
            name, reader, lambda copy: self._end_output(name, copy)
        )
        return writer

    def _end_stdin(self, copy: Copy) -> None:
        os.close(copy.sink)
        if copy.broken:
            self._control.send("closed stdin")

    def _end_output(self, name: str, copy: Copy) -> None:
        if copy.source != self._master:
            os.close(copy.source)
        if not copy.broken:
            self._control.send(f"eof {name} {copy.received}")
