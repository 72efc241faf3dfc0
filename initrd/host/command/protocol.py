"""The host's side of docs/command.md: the streams of a command in the guest, and its messages.

Knows nothing of processes and terminals: bytes and lines go in and out of sockets.
"""

import errno
import os
import socket

from initrd.command import TERMINAL, unescape
from initrd.errors import HostError
from initrd.host.system.loop import READABLE, WRITABLE, Loop
from initrd.host.system.stream import Relay, Sink
from initrd.record import Record
from initrd.text import parse_natural

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

PREFIX = "initrd."
CONTROL = "initrd.control"
_LAST = ("exit", "signal", "failed", "refused")  # messages
_INPUTS = ("control", "stdin")
_LONGEST = 1 << 16  # bytes of a message; there is none of that size


class LocalStreams(Record):
    """Where the streams of a command lead here."""

    stdin: int = -1  # a descriptor to read; -1: nothing is read, now
    stdout: Sink | None = None
    stderr: Sink | None = None
    see: "Callable[[str, bytes], object]" = staticmethod(lambda *_: None)  # each piece of output
    warn: "Callable[[str], object]" = staticmethod(lambda _: None)  # words for the user

    def sink(self, name: str) -> Sink | None:
        """Return where the output stream `name` goes; a terminal's is standard output."""
        return self.stderr if name == "stderr" else self.stdout


class CommandProtocol:
    """Talks to /init about one command. `over` once its status and all its output are here."""

    def __init__(self, loop: Loop, sockets: dict[str, socket.socket], ends: LocalStreams) -> None:
        self._loop, self._sockets, self._ends = loop, sockets, ends
        self._control = sockets[CONTROL]
        self._line, self._untold = b"", b""
        self._announced: dict[str, int] = {}  # bytes of each stream that has ended
        self._input: Relay | None = None
        self._input_sink: Sink | None = None
        self._deaf = False  # the guest's end of the line is closed
        self.heard = False  # the guest has said something
        self.started = False  # the command runs
        self.lost = ""  # why some of its output is not here
        self.last: tuple[str, str] | None = None  # the last message: its word, and the rest
        self.on_start: Callable[[], object] = lambda: None
        # Before the outputs: what is said before some output shall be heard before it.
        loop.watch(self._control.fileno(), READABLE, self._attend)
        names = [name.removeprefix(PREFIX) for name in sockets]
        self._outputs = {name: self._output(name) for name in names if name not in _INPUTS}

    @property
    def over(self) -> bool:
        """Whether there is nothing more to come."""
        return self.last is not None and all(map(self._complete, self._outputs))

    @property
    def failure(self) -> str:
        """Why there is no status, when the guest said so."""
        return self.last[1] if self.last and self.last[0] == "failed" else ""

    @property
    def refusal(self) -> str:
        """What was asked for the command that the root does not have, when the guest said so."""
        return self.last[1] if self.last and self.last[0] == "refused" else ""

    def status(self) -> int:
        """Return the exit status of the command, when it is over and was neither of these."""
        word, text = self.last or ("exit", "")
        return _number(text) & 0xFF if word == "exit" else 128 + _number(text) % 128

    def take_input(self) -> None:
        """Begin to read standard input."""
        if self._input is None and self._ends.stdin >= 0:
            name = "stdin" if f"{PREFIX}stdin" in self._sockets else "tty"
            self._input_sink = Sink(self._sockets[PREFIX + name].fileno())
            self._input = Relay(self._loop, self._ends.stdin, self._input_sink)
            self._input.on_end = lambda: self._end_input(name)

    def tell(self, message: str) -> None:
        """Send a message to the guest, as soon as it takes one."""
        self._untold += f"{message}\n".encode()
        self._transmit()
        if self._untold and not self._deaf:
            self._loop.watch(self._control.fileno(), READABLE | WRITABLE, self._attend)

    def close(self) -> None:
        """Stop to listen. The sockets are the caller's."""
        self._loop.ignore(self._control.fileno())
        for relay in (*self._outputs.values(), *([self._input] if self._input else [])):
            relay.stop()
        if self._input_sink:
            self._input_sink.close()

    def _output(self, name: str) -> Relay:
        source = self._sockets[PREFIX + name].fileno()
        see = self._ends.see
        relay = Relay(self._loop, source, self._ends.sink(name), lambda data: see(name, data))
        relay.on_write_error = lambda error: self._close_output(name, error)
        return relay

    def _close_output(self, name: str, error: OSError) -> None:
        """Nobody reads it here, so nobody shall write it there."""
        if error.errno != errno.EPIPE:
            self.lost = f"cannot write {name}: {os.strerror(error.errno or 0)}"
            self._ends.warn(self.lost)
        self._announced[name] = 0  # no end will be told
        self.tell(f"closed {name}")

    def _end_input(self, name: str) -> None:
        if self._input and name == "stdin":
            self.tell(f"eof stdin {self._input.count}")
        elif name == TERMINAL and not self.last:  # no key ends it: it has hung up
            self._announced[name] = 0
            self.tell(f"closed {name}")

    def _complete(self, name: str) -> bool:
        relay = self._outputs[name]
        return relay.count >= self._announced.get(name, 1 << 63) and relay.idle

    def _attend(self, events: int) -> None:
        if events & WRITABLE:
            self._transmit()
            if not self._untold:
                self._loop.watch(self._control.fileno(), READABLE, self._attend)
        if events & ~WRITABLE:
            self._hear()

    def _transmit(self) -> None:
        try:
            sent = self._control.send(self._untold, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
        except BlockingIOError:
            return
        except (BrokenPipeError, ConnectionResetError):
            sent = len(self._untold)  # it listens no more: that is noticed elsewhere
        self._untold = self._untold[sent:]

    def _hear(self) -> None:
        try:
            data = self._control.recv(4096)
        except ConnectionResetError:  # QEMU is gone
            data = b""
        *lines, self._line = (self._line + data).split(b"\n")
        for line in lines:
            self._understand(line.decode(errors="replace"))
        if not data or len(self._line) > _LONGEST:
            self._deaf = True
            self._loop.ignore(self._control.fileno())

    def _understand(self, message: str) -> None:
        self.heard = True
        word, _, text = message.partition(" ")
        if word == "started":
            self.started = True
            self.on_start()
        elif word == "warning":
            self._ends.warn(unescape(text))
        elif word == "closed" and self._input:
            self._input.stop()
        elif word == "eof":
            name, _, count = text.partition(" ")
            self._announced.setdefault(name, _number(count))
        elif word in _LAST and self.last is None:
            self.last = (word, unescape(text))
            if word in ("failed", "refused"):  # no end of a stream is due, and the guest waits
                self.tell("bye")


def _number(text: str) -> int:
    """Return a number that the guest sent. Raises HostError: a guest is not to be trusted."""
    number = parse_natural(text)
    if number is None:
        raise HostError("cannot understand the guest", f"{text[:40]!r} is not a number")
    return number
