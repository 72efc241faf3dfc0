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

    from initrd.guest.command.control import ControlPort
    from initrd.guest.command.users import User

_BUFFER_SIZE = 1 << 16  # bytes: the capacity of a pipe
# A read of a port returns at most one buffer of its driver; readv(2) fills several segments.
_SEGMENT_SIZE = 4096  # bytes
_CLOSED_EVENTS = POLLERR | POLLHUP | POLLNVAL


class StreamCopy:
    """One direction of one stream. Both descriptors are non-blocking. A handler of `Loop`.

    Closes neither descriptor; `on_end` is called once, when the copy ends.
    """

    def __init__(self, source: int, sink: int, on_end: "Callable[[StreamCopy], None]") -> None:
        self.source, self.sink = source, sink
        self.received = 0  # bytes read so far
        self.length: int | None = None  # bytes of the source in all, if known
        self.ended = False
        self.broken = False  # ended because the sink has no reader
        self._on_end = on_end
        self._buffer = memoryview(bytearray(_BUFFER_SIZE))
        starts = range(0, _BUFFER_SIZE, _SEGMENT_SIZE)
        self._segments = [self._buffer[at : at + _SEGMENT_SIZE] for at in starts]
        self._pending = self._buffer[:0]

    @property
    def has_pending(self) -> bool:
        """Whether bytes were read that the sink has not accepted yet."""
        return bool(self._pending)

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
        if ready.get(self.sink, 0) & _CLOSED_EVENTS:
            self.end(broken=True)
            return
        if not self._pending:
            self._fill()
        self._drain()
        self._check_length()

    def set_length(self, count: int) -> None:
        """End the copy after `count` bytes in all."""
        self.length = count
        self._check_length()

    def end(self, *, broken: bool = False) -> None:
        """Stop copying, drop pending bytes, and call `on_end`; no effect after the first call."""
        if not self.ended:
            self.ended, self.broken = True, broken
            self._pending = self._buffer[:0]
            self._on_end(self)

    def _check_length(self) -> None:
        if self.length is not None and self.received >= self.length and not self._pending:
            self.end()

    def _fill(self) -> None:
        try:
            count = os.readv(self.source, self._segments)
        except BlockingIOError:
            return
        except OSError as error:
            if error.errno != errno.EIO:  # EIO: every process has closed the terminal
                raise
            count = 0
        if count == 0:
            self.end()
        self.received += count
        self._pending = self._buffer[:count]

    def _drain(self) -> None:
        try:
            while self._pending:
                self._pending = self._pending[os.write(self.sink, self._pending) :]
        except BlockingIOError:
            return
        except BrokenPipeError:
            self.end(broken=True)


class Streams:
    """The streams of one command. The command's own descriptors are in `child_ends`."""

    def __init__(self, command: Command, ports: "dict[str, int]", control: "ControlPort") -> None:
        self._control = control
        self._ports = ports
        self._master = self._slave = -1
        self.inputs: dict[str, StreamCopy] = {}
        self.outputs: dict[str, StreamCopy] = {}
        if command.tty:
            self._open_terminal(command.size)
        self.child_ends = tuple(
            self._slave if fd in command.tty else self._open_pipe(fd) for fd in range(len(STREAMS))
        )

    @property
    def terminal(self) -> int:
        """The descriptor of the command's terminal; -1 if the command has none."""
        return self._slave

    def copies(self) -> tuple[StreamCopy, ...]:
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
            self.inputs[name].end(broken=True)
            os.close(self._master)
            self._master = -1

    def end_inputs(self) -> None:
        """Stop reading from the host, after the command has ended."""
        for copy in self.inputs.values():
            copy.end(broken=True)

    def close_slave(self) -> None:
        """Close the slave of the terminal, so that its output ends once it is read completely."""
        if self._slave >= 0:
            os.close(self._slave)
            self._slave = -1

    def _open_terminal(self, size: tuple[int, int]) -> None:
        self._master, self._slave = os.openpty()
        os.set_blocking(self._master, False)
        _syscalls.set_terminal_utf8(self._slave)
        self.resize(*size)
        port = self._ports[f"initrd.{TERMINAL}"]
        self.inputs[TERMINAL] = StreamCopy(port, self._master, lambda _copy: None)
        self.outputs[TERMINAL] = StreamCopy(
            self._master, port, lambda copy: self._end_output(TERMINAL, copy)
        )

    def _open_pipe(self, fd: int) -> int:
        """Open the pipe for descriptor `fd` of the command; return the command's end."""
        name = STREAMS[fd]
        port = self._ports[f"initrd.{name}"]
        reader, writer = os.pipe2(os.O_CLOEXEC)
        if fd == 0:
            os.set_blocking(writer, False)
            self.inputs[name] = StreamCopy(port, writer, self._end_stdin)
            return reader
        os.set_blocking(reader, False)
        self.outputs[name] = StreamCopy(reader, port, lambda copy: self._end_output(name, copy))
        return writer

    def _end_stdin(self, copy: StreamCopy) -> None:
        os.close(copy.sink)
        if copy.broken:
            self._control.send("closed stdin")

    def _end_output(self, name: str, copy: StreamCopy) -> None:
        if copy.source != self._master:
            os.close(copy.source)
        if not copy.broken:
            self._control.send(f"eof {name} {copy.received}")
