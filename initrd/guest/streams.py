"""The command's standard streams: a pipe or the terminal on its side, a port on the host's.

The command never gets a port itself: a port has one opener, so `/dev/stdin` could not be opened
again, and a writer would not notice that the host has stopped to read. The host learns of each end
on the control port, with the number of bytes.
"""

import posix as os

from initrd.command import STREAMS, TERMINAL, Command
from initrd.guest import _syscalls
from initrd.guest.pump import Pump

TYPE_CHECKING = False
if TYPE_CHECKING:
    from initrd.guest.control import Control
    from initrd.guest.users import User


class Streams:
    """The streams of one command. What the command needs of them is in `theirs` until it runs."""

    def __init__(self, command: Command, ports: "dict[str, int]", host: "Control") -> None:
        self._host = host
        self._ports = ports
        self._master = self._slave = -1
        self.inputs: dict[str, Pump] = {}
        self.outputs: dict[str, Pump] = {}
        if command.tty:
            self._open_terminal(command.size)
        self._tty = command.tty
        self.theirs = tuple(
            self._slave if fd in command.tty else self._open_pipe(fd) for fd in range(len(STREAMS))
        )

    @property
    def terminal(self) -> int:
        """The command's terminal, -1 when it has none."""
        return self._slave

    def pumps(self) -> tuple[Pump, ...]:
        """Return everything that moves bytes."""
        return (*self.inputs.values(), *self.outputs.values())

    def give_to(self, user: "User") -> None:
        """Let the command's user open its own streams again, as `/dev/stdin` and so on."""
        for fd in self.theirs:
            os.fchown(fd, user.uid, -1 if fd == self._slave else user.gid)

    def close_theirs(self) -> None:
        """Close the command's ends, so that an end of a stream can be seen."""
        for fd in self.theirs:
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

    def break_output(self, name: str) -> None:
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
        self.inputs[TERMINAL] = Pump(port, self._master, lambda _pump: None)
        self.outputs[TERMINAL] = Pump(
            self._master, port, lambda pump: self._output_ended(TERMINAL, pump)
        )

    def _open_pipe(self, fd: int) -> int:
        name = STREAMS[fd]
        port = self._ports[f"initrd.{name}"]
        reader, writer = os.pipe2(os.O_CLOEXEC)
        if fd == 0:
            os.set_blocking(writer, False)
            self.inputs[name] = Pump(port, writer, self._stdin_ended)
            return reader
        os.set_blocking(reader, False)
        self.outputs[name] = Pump(reader, port, lambda pump: self._output_ended(name, pump))
        return writer

    def _stdin_ended(self, pump: Pump) -> None:
        os.close(pump.sink)
        if pump.broken:
            self._host.send("closed stdin")

    def _output_ended(self, name: str, pump: Pump) -> None:
        if pump.source != self._master:
            os.close(pump.source)
        if not pump.broken:
            self._host.send(f"eof {name} {pump.received}")
