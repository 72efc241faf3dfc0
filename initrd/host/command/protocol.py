"""The host's side of docs/command.md: the streams of a command in the guest, and its messages.

This module reads and writes sockets only; it handles neither processes nor terminals.

Root in the guest can write to each port what it wants. So what is kept of it is bounded, and what
the protocol does not allow ends the session with an error.
"""

import errno
import os
import socket
import time

from initrd.command import TERMINAL, unescape
from initrd.frames import VERSION
from initrd.host.system.hosterror import HostError
from initrd.host.system.lines import Lines
from initrd.host.system.loop import READABLE, WRITABLE, Loop
from initrd.host.system.stream import KeyboardRelay, Relay, Sink, send_now
from initrd.record import Record
from initrd.text import parse_natural

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

PREFIX = "initrd."  # of the names of ports
CONTROL = "initrd.control"
_FINAL = ("exit", "signal", "failed", "refused")  # further messages after one of these are ignored
_NO_OUTPUT = ("control", "stdin")  # ports that are no output stream
_ONCE = ("ready", "started", "ended")
_READ_SIZE = 1 << 12  # bytes of messages that are handled at once
_MAX_MESSAGE = 1 << 16  # bytes; regular messages are much shorter
_MAX_TEXT = 4000  # characters of a message that are shown
_MAX_WARNINGS = 50  # of one session; there are few
_NOT_UNDERSTOOD = "cannot understand the guest"


def time_message() -> str:
    """Return the message with the time of this machine."""
    return f"time {time.time_ns() // 1000}"


def read_text(text: str) -> str:
    """Return the text of a message for the user, at most _MAX_TEXT characters of it."""
    shown = unescape(text)
    return shown if len(shown) <= _MAX_TEXT else f"{shown[:_MAX_TEXT]} …"


class GuestWarnings:
    """Passes on the warnings of a guest, which may send any number."""

    def __init__(self, warn: "Callable[[str], object]") -> None:
        self._warn, self._count = warn, 0

    def add(self, text: str) -> None:
        """Pass on the text of a message `warning`, unless there were too many."""
        self._count += 1
        if self._count <= _MAX_WARNINGS:
            self._warn(read_text(text))
        elif self._count == _MAX_WARNINGS + 1:
            self._warn("further warnings of the guest are left out")


class LocalStreams(Record):
    """The host's ends of a command's streams."""

    stdin: int = -1  # a descriptor to read; -1: there is no input
    stdout: Sink | None = None
    stderr: Sink | None = None
    on_output: "Callable[[str, bytes], object]" = staticmethod(lambda *_: None)  # stream, piece
    on_warning: "Callable[[str], object]" = staticmethod(lambda _: None)  # text for the user
    hangs_up: bool = True  # the end of the input hangs up the command's terminal

    def sink(self, name: str) -> Sink | None:
        """Return the sink of the output stream `name`; a terminal has that of standard output."""
        return self.stderr if name == "stderr" else self.stdout


class CommandProtocol:
    """The messages and streams between this process and /init for one command."""

    def __init__(
        self, loop: Loop, sockets: dict[str, socket.socket], streams: LocalStreams
    ) -> None:
        self._loop, self._sockets, self._streams = loop, sockets, streams
        self._control = sockets[CONTROL]
        self._incoming, self._outgoing = Lines(_MAX_MESSAGE), b""  # of the control port
        self._held: bytes | None = None  # messages for a guest that is not ready; None: send all
        self._lengths: dict[str, int] = {}  # bytes of each output stream that has ended
        self._received: set[str] = set()  # messages that are sent once
        self._warnings = GuestWarnings(streams.on_warning)
        self._input: Relay | None = None
        self._input_sink: Sink | None = None
        self._control_closed = False  # by the guest
        self.received_any = False  # at least one message
        self.started = False  # the command runs
        self._sent_time = False
        self.has_frames = False  # from here on the guest sends frames: see `take_over`
        self.output_error = ""  # why some of the output was not written
        self.final: tuple[str, str] | None = None  # the final message: its word, and the rest
        self.on_start: Callable[[], object] = lambda: None
        # `exit N` or `signal N` when the command's process has ended; its output may follow.
        self.process_status = ""
        self.on_input: Callable[[bytes], object] = lambda _: None  # a piece of standard input
        self.on_awake: Callable[[], object] = lambda: None  # a copy of a template has its devices
        # Watched before the outputs: a message that was sent before some output is handled first.
        loop.watch(self._control.fileno(), READABLE, self._on_control)
        names = [name.removeprefix(PREFIX) for name in sockets]
        self._outputs = {name: self._start_output(name) for name in names if name not in _NO_OUTPUT}

    @property
    def finished(self) -> bool:
        """Whether the final message and all output have arrived."""
        return self.final is not None and all(map(self.is_complete, self._outputs))

    @property
    def is_truncated(self) -> bool:
        """Whether the final message has arrived, and an output stream has ended too early."""
        return self.final is not None and any(
            relay.ended and not self.is_complete(name) for name, relay in self._outputs.items()
        )

    @property
    def failure(self) -> str:
        """Why there is no status, by the message `failed`; empty without one."""
        return self.final[1] if self.final and self.final[0] == "failed" else ""

    @property
    def refusal(self) -> str:
        """What the root lacks for the command, by the message `refused`; empty without one."""
        return self.final[1] if self.final and self.final[0] == "refused" else ""

    def status(self) -> int:
        """Return the exit status of the command, after a final message `exit` or `signal`."""
        word, text = self.final or ("exit", "")
        return _parse_number(text) & 0xFF if word == "exit" else 128 + _parse_number(text) % 128

    def start_input(self) -> None:
        """Begin to read standard input."""
        if self._input is None and self._streams.stdin >= 0:
            name = "stdin" if f"{PREFIX}stdin" in self._sockets else TERMINAL
            self._input_sink = Sink(self._sockets[PREFIX + name].fileno())
            relay = KeyboardRelay if name == TERMINAL else Relay
            stdin, sink = self._streams.stdin, self._input_sink
            self._input = relay(self._loop, stdin, sink, self.on_input)
            self._input.on_end = lambda: self._end_input(name)

    def send(self, message: str) -> None:
        """Send a message to the guest, as soon as the guest accepts it."""
        line = f"{message}\n".encode()
        if self._held is None:
            self._send_bytes(line)
        else:
            self._held += line

    def send_start(self, content: bytes) -> None:
        """Send what a machine that starts from a template is to do: see `initrd.template`.

        Messages are held back until the guest is ready, which takes all bytes for its start before.
        """
        self._send_bytes(content)
        self._held = b""

    def take_over(self) -> tuple[socket.socket, bytes]:
        """Return the control port after `frames`, and what has arrived after that message.

        No message is sent any more.
        """
        self._control_closed = True
        return self._control, self._incoming.take_rest()

    @property
    def disconnected(self) -> bool:
        """Whether the guest has closed the control port: no message will come."""
        return self._control_closed

    def _send_held(self) -> None:
        held, self._held = self._held, None
        if held:
            self._send_bytes(held)

    def _send_bytes(self, data: bytes) -> None:
        if self.has_frames:
            return
        self._outgoing += data
        self._transmit()
        if self._outgoing and not self._control_closed:
            self._loop.watch(self._control.fileno(), READABLE | WRITABLE, self._on_control)

    def close(self) -> None:
        """Stop reading and writing. The caller closes the sockets."""
        self._loop.unwatch(self._control.fileno())
        for relay in (*self._outputs.values(), *([self._input] if self._input else [])):
            relay.stop()
        if self._input_sink:
            self._input_sink.close()

    def _start_output(self, name: str) -> Relay:
        source = self._sockets[PREFIX + name].fileno()
        on_output = self._streams.on_output
        sink = self._streams.sink(name)
        relay = Relay(self._loop, source, sink, lambda data: on_output(name, data))
        relay.on_write_error = lambda error: self._close_output(name, error)
        return relay

    def _close_output(self, name: str, error: OSError) -> None:
        """Report to the guest that an output stream cannot be written here any more."""
        if error.errno != errno.EPIPE:
            self.output_error = f"cannot write {name}: {os.strerror(error.errno or 0)}"
            self._streams.on_warning(self.output_error)
        self._lengths[name] = 0  # the guest sends no `eof` for it
        self.send(f"closed {name}")

    def _end_input(self, name: str) -> None:
        if self._input and name == "stdin":
            self.send(f"eof stdin {self._input.count}")
        elif name == TERMINAL and self._streams.hangs_up:  # a terminal has no other end of input
            self.hang_up()

    def hang_up(self) -> None:
        """Hang up the command's terminal; its further output is lost."""
        if not self.final:
            self._lengths[TERMINAL] = 0
            self.send(f"closed {TERMINAL}")

    def is_complete(self, name: str) -> bool:
        """Return whether all of an output stream has arrived and is written."""
        relay = self._outputs[name]
        return relay.count >= self._lengths.get(name, 1 << 63) and relay.is_idle

    def _on_control(self, events: int) -> None:
        if events & WRITABLE:
            self._transmit()
            if not self._outgoing:
                self._loop.watch(self._control.fileno(), READABLE, self._on_control)
        if events & ~WRITABLE:
            self._receive()

    def _transmit(self) -> None:
        # A closed connection: QEMU has ended, which RunningMachine detects.
        self._outgoing = self._outgoing[send_now(self._control, self._outgoing) :]

    def _receive(self) -> None:
        try:
            data = self._control.recv(_READ_SIZE)
        except ConnectionResetError:  # QEMU has ended
            data = b""
        self._incoming.add(data)
        while not self.has_frames and (line := self._incoming.take()) is not None:
            self._handle(line.decode(errors="replace"))
        if self.has_frames:
            self._loop.unwatch(self._control.fileno())
        elif not data:
            self._control_closed = True
            self._loop.unwatch(self._control.fileno())
        elif self._incoming.is_too_long:
            raise HostError(_NOT_UNDERSTOOD, f"a message has more than {_MAX_MESSAGE} bytes")

    def _handle(self, message: str) -> None:
        self.received_any = True
        word, _, text = message.partition(" ")
        if self.final is not None:
            return
        if word in _ONCE:
            self._receive_once(word)
        if word == "awake" and not self._sent_time:  # a copy of a template sets its clock
            self.on_awake()
            self._send_time()
        elif word == "ready":
            if self._sets_clock_at_ready:
                self._send_time()
            self._send_held()
        elif word == "frames":
            self._start_frames(text)
        elif word == "started":
            self.started = True
            self.on_start()
        elif word == "ended":
            self.process_status = text
        elif word == "warning":
            self._warnings.add(text)
        elif message == "closed stdin":
            self._stop_input()
        elif word == "eof":
            self._end_output(*text.partition(" ")[::2])
        elif word in _FINAL:
            self._finish(word, text)

    def _send_time(self) -> None:
        self._sent_time = True
        self._send_bytes(time_message().encode() + b"\n")

    @property
    def _sets_clock_at_ready(self) -> bool:
        """Whether the machine has booted, and runs one command.

        One of a template sends `awake`. In a machine for several commands frames follow `ready`.
        """
        return self._held is None and not self._sent_time and len(self._sockets) > 1

    def _receive_once(self, message: str) -> None:
        """Raise HostError for a message that has come before."""
        if message in self._received:
            raise HostError(_NOT_UNDERSTOOD, f"it has sent {message!r} twice")
        self._received.add(message)

    def _start_frames(self, version: str) -> None:
        if version != f"{VERSION}":
            why = f"it uses version {version[:40]} of the protocol, and not {VERSION}"
            raise HostError(_NOT_UNDERSTOOD, why, "a newer chrootvm, or --init")
        if self._outputs:
            raise HostError(_NOT_UNDERSTOOD, "it has sent 'frames' in a machine for one command")
        self.has_frames = self.started = True

    def _stop_input(self) -> None:
        if self._input and not isinstance(self._input, KeyboardRelay):
            self._input.stop()

    def _end_output(self, name: str, length: str) -> None:
        if name not in self._outputs:
            raise HostError(_NOT_UNDERSTOOD, f"it has ended {name[:40]!r}, which is no output")
        self._receive_once(f"eof {name}")
        self._lengths[name] = _parse_number(length)

    def _finish(self, word: str, text: str) -> None:
        self.final = (word, read_text(text))
        self._send_held()
        if word in ("failed", "refused"):  # no stream has ended, and the guest waits
            self.send("bye")


def _parse_number(text: str) -> int:
    """Return a number that the guest sent. Raises HostError: the guest may send anything."""
    number = parse_natural(text)
    if number is None:
        raise HostError(_NOT_UNDERSTOOD, f"{text[:40]!r} is not a number")
    return number
