"""The command's standard streams: a pipe or the terminal on its side, a port on the host's.

The command never gets a port itself: a port has one opener, so `/dev/stdin` could not be opened
again, and a writer would not notice that the host has stopped to read. The host learns of each end
on the control port, with the number of bytes.
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

BLOCK = 1 << 16  # bytes: what a pipe holds
# A port's driver returns no more than one of its buffers a read; readv(2) gathers several.
PART = 4096
_GONE = POLLERR | POLLHUP | POLLNVAL


class StreamCopy:
    """One direction of one stream. Both descriptors are non-blocking; it closes neither."""

    def __init__(self, source: int, sink: int, at_end: "Callable[[StreamCopy], None]") -> None:
        self.source, self.sink = source, sink
        self.received = 0  # bytes read so far
        self.limit: int | None = None  # the source ends after so many bytes
        self.ended = False
        self.broken = False  # ended because nobody reads at the sink
        self._at_end = at_end
        self._block = memoryview(bytearray(BLOCK))
        self._parts = [self._block[at : at + PART] for at in range(0, BLOCK, PART)]
        self._pending = self._block[:0]

    @property
    def pending(self) -> bool:
        """Whether there is something that the sink has not taken yet."""
        return bool(self._pending)

    def wants(self) -> "list[tuple[int, int]]":
        """Return what to poll(2) for. A sink is watched always: it can break at any time."""
        if self.ended:
            return []
        if self._pending:
            return [(self.sink, POLLOUT)]
        return [(self.source, POLLIN), (self.sink, 0)]

    def act(self, ready: "dict[int, int]") -> None:
        """Move what can be moved without waiting."""
        if self.ended:  # another watcher's doing, since we said what we wait for
            return
        if ready.get(self.sink, 0) & _GONE:
            self.end(broken=True)
            return
        if not self._pending:
            self._fill()
        self._drain()
        self._check_limit()

    def end_after(self, count: int) -> None:
        """Learn that the source has `count` bytes in all."""
        self.limit = count
        self._check_limit()

    def end(self, *, broken: bool = False) -> None:
        """Move nothing any more, and tell; once."""
        if not self.ended:
            self.ended, self.broken = True, broken
            self._pending = self._block[:0]
            self._at_end(self)

    def _check_limit(self) -> None:
        if self.limit is not None and self.received >= self.limit and not self._pending:
            self.end()

    def _fill(self) -> None:
        try:
            count = os.readv(self.source, self._parts)
        except BlockingIOError:
            return
        except OSError as error:
            if error.errno != errno.EIO:  # a terminal that every process has closed
                raise
            count = 0
        if count == 0:
            self.end()
        self.received += count
        self._pending = self._block[:count]

    def _drain(self) -> None:
        try:
            while self._pending:
                self._pending = self._pending[os.write(self.sink, self._pending) :]
        except BlockingIOError:
            return
        except BrokenPipeError:
            self.end(broken=True)


class Streams:
    """The streams of one command. What the command needs of them is in `theirs` until it runs."""

    def __init__(self, command: Command, ports: "dict[str, int]", host: "ControlPort") -> None:
        self._host = host
        self._ports = ports
        self._master = self._slave = -1
        self.inputs: dict[str, StreamCopy] = {}
        self.outputs: dict[str, StreamCopy] = {}
        if command.tty:
            self._open_terminal(command.size)
        self._tty = command.tty
        self.child_ends = tuple(
            self._slave if fd in command.tty else self._open_pipe(fd) for fd in range(len(STREAMS))
        )

    @property
    def terminal(self) -> int:
        """The command's terminal, -1 when it has none."""
        return self._slave

    def copies(self) -> tuple[StreamCopy, ...]:
        """Return everything that moves bytes."""
        return (*self.inputs.values(), *self.outputs.values())

    def chown_to(self, user: "User") -> None:
        """Let the command's user open its own streams again, as `/dev/stdin` and so on."""
        for fd in self.child_ends:
            os.fchown(fd, user.uid, -1 if fd == self._slave else user.gid)

    def close_child_ends(self) -> None:
        """Close the command's ends, so that an end of a stream can be seen."""
        for fd in self.child_ends:
            if fd != self._slave:
                os.close(fd)

    def resize(self, rows: int, columns: int) -> None:
        """Tell the terminal its size, and so the command: SIGWINCH."""
        if self._master >= 0:
            _syscalls.set_terminal_size(self._master, rows, columns)

    def end_input(self, name: str, count: int) -> None:
        """Learn from the host how many bytes an input has."""
        if name in self.inputs:
            self.inputs[name].end_after(count)

    def close_output(self, name: str) -> None:
        """Learn from the host that nobody reads an output; of a terminal: that it has hung up."""
        if name in self.outputs:
            self.outputs[name].end(broken=True)
        if name == TERMINAL and self._master >= 0:
            self.inputs[name].end(broken=True)
            os.close(self._master)
            self._master = -1

    def end_inputs(self) -> None:
        """Take nothing from the host any more: nobody is there to read it."""
        for pump in self.inputs.values():
            pump.end(broken=True)

    def finish(self) -> None:
        """Let the terminal end when all is read; pipes do it by themselves."""
        if self._slave >= 0:
            os.close(self._slave)
            self._slave = -1

    def _open_terminal(self, size: tuple[int, int]) -> None:
        self._master, self._slave = os.openpty()
        os.set_blocking(self._master, False)
        _syscalls.set_terminal_utf8(self._slave)
        self.resize(*size)
        port = self._ports[f"initrd.{TERMINAL}"]
        self.inputs[TERMINAL] = StreamCopy(port, self._master, lambda _pump: None)
        self.outputs[TERMINAL] = StreamCopy(
            self._master, port, lambda pump: self._output_ended(TERMINAL, pump)
        )

    def _open_pipe(self, fd: int) -> int:
        name = STREAMS[fd]
        port = self._ports[f"initrd.{name}"]
        reader, writer = os.pipe2(os.O_CLOEXEC)
        if fd == 0:
            os.set_blocking(writer, False)
            self.inputs[name] = StreamCopy(port, writer, self._stdin_ended)
            return reader
        os.set_blocking(reader, False)
        self.outputs[name] = StreamCopy(reader, port, lambda pump: self._output_ended(name, pump))
        return writer

    def _stdin_ended(self, pump: StreamCopy) -> None:
        os.close(pump.sink)
        if pump.broken:
            self._host.send("closed stdin")

    def _output_ended(self, name: str, pump: StreamCopy) -> None:
        if pump.source != self._master:
            os.close(pump.source)
        if not pump.broken:
            self._host.send(f"eof {name} {pump.received}")
