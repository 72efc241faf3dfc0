"""The host's end of the port of a machine that runs several commands: `initrd.frames`.

Each channel of a command is connected to a socket, whose other end a client has. A client that
stands still holds up its own channels only. What the guest sends is checked and bounded, and takes
time in proportion to its bytes, also when there are many commands.
"""

import socket

from initrd.frames import (
    CLOSE,
    CONTROL,
    CREDIT,
    DATA,
    MACHINE,
    MAX_DATA,
    RUN,
    WINDOW,
    Decoder,
    Flow,
    FrameError,
    Numbers,
    channel_of,
    encode_credit,
    encode_frame,
    split_channel,
)
from initrd.host.system.lines import Lines
from initrd.host.system.loop import READABLE, WRITABLE, Loop
from initrd.host.system.stream import close_connection, send_now

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

_MAX_MESSAGE = 1 << 16  # bytes of a line from the guest; regular messages are much shorter
_READ_SIZE = 1 << 18  # bytes


class Port:
    """The port of a machine, split into channels."""

    def __init__(self, loop: Loop, connection: socket.socket) -> None:
        """`connection`: to the guest; both sides have agreed to send frames only."""
        self.loop = loop
        self._connection = connection
        self._decoder, self._numbers = Decoder(), Numbers()
        self._outgoing = bytearray()
        self._unsent_credit: dict[int, int] = {}  # bytes, by channel; waits for `_outgoing`
        self._commands: dict[int, dict[str, Channel]] = {}  # that neither side has closed
        self._ended: set[Channel] = set()  # of commands that have ended; output is pending
        self._machine_flow, self._lines = Flow(), Lines(_MAX_MESSAGE)
        self._is_closed = False
        self.on_message: Callable[[str], object] = lambda _line: None  # of the machine
        self.on_end: Callable[[int], object] = lambda _command: None  # the guest has closed it
        self.on_error: Callable[[str], object] = lambda _why: None  # the guest is not understood
        loop.watch(connection.fileno(), READABLE, self._on_events)

    @property
    def is_busy(self) -> bool:
        """Whether enough bytes wait for the guest: no more should be read for it."""
        return len(self._outgoing) >= MAX_DATA

    @property
    def is_delivered(self) -> bool:
        """Whether the clients have taken all output of the commands that have ended."""
        return not self._ended

    def run(self, content: bytes, sockets: dict[str, socket.socket]) -> int:
        """Run the command of a command file; return its number.

        `sockets`: for the channels of the command, by name; they are closed at its end.
        """
        number = self._numbers.next()
        channels = {
            name: Channel(self, channel_of(number, name), end) for name, end in sockets.items()
        }
        self._commands[number] = channels
        self.send(encode_frame(channel_of(number, CONTROL), RUN, content))
        for channel in channels.values():
            channel.update()
        return number

    def send_message(self, message: str) -> None:
        """Send a message to the machine. There are few, much shorter than a window."""
        self.send(encode_frame(channel_of(MACHINE, CONTROL), DATA, f"{message}\n".encode()))

    def close_command(self, number: int) -> None:
        """Close a command before its end, because its client has gone."""
        channels = self._commands.pop(number, {})
        if CONTROL in channels:
            channels[CONTROL].pass_on_rest()  # such as the message `kill`
        for channel in channels.values():
            channel.discard()
        self.send(encode_frame(channel_of(number, CONTROL), CLOSE))
        self.on_end(number)

    def receive(self, data: bytes) -> None:
        """Act on bytes from the guest."""
        try:
            for number, kind, payload in self._decoder.feed(data):
                self._dispatch(number, kind, payload)
        except FrameError as error:
            self._fail(str(error))

    def give_credit(self, channel: int, count: int) -> None:
        """Allow the guest to send `count` more bytes; the caller has passed on as many.

        While the guest does not take what waits for it, the credit of each channel is added up.
        """
        if not self._outgoing:
            self.send(encode_credit(channel, count))
            return
        total = self._unsent_credit.get(channel, 0) + count
        if total > WINDOW:  # it has sent them without having been allowed to
            self._fail("more bytes than allowed were sent")
        else:
            self._unsent_credit[channel] = total

    def send(self, frame: bytes) -> None:
        """Send a frame: now as much as the guest accepts, the rest later."""
        if not self._is_closed:
            self._outgoing += frame
            self._transmit()

    def close(self) -> None:
        """Stop reading and writing, and close the clients' sockets. The caller closes the port."""
        if self._is_closed:
            return
        self._is_closed = True
        self.loop.unwatch(self._connection.fileno())
        for channels in self._commands.values():
            self._ended.update(channels.values())
        self._commands.clear()
        for channel in tuple(self._ended):
            channel.discard()

    def forget(self, channel: "Channel") -> None:
        """Forget a channel that is closed."""
        self._ended.discard(channel)

    def _fail(self, why: str) -> None:
        """Stop, because the guest has sent what it may not send."""
        if not self._is_closed:
            self.close()
            self.on_error(why)

    def _on_events(self, events: int) -> None:
        if events & WRITABLE:
            self._transmit()
        if events & ~WRITABLE:
            self._read()

    def _read(self) -> None:
        try:
            data = self._connection.recv(_READ_SIZE, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return
        except ConnectionResetError:
            data = b""
        if data:
            self.receive(data)
        else:  # QEMU has ended; RunningMachine detects that
            self.loop.unwatch(self._connection.fileno())

    def _transmit(self) -> None:
        was_busy = self.is_busy
        del self._outgoing[: send_now(self._connection, self._outgoing)]
        if not self._outgoing and self._unsent_credit:
            for number, count in self._unsent_credit.items():
                self._outgoing += encode_credit(number, count)
            self._unsent_credit.clear()
            del self._outgoing[: send_now(self._connection, self._outgoing)]
        events = READABLE | (WRITABLE if self._outgoing else 0)
        self.loop.watch(self._connection.fileno(), events, self._on_events)
        if was_busy != self.is_busy:
            for channels in self._commands.values():
                for channel in channels.values():
                    channel.update()

    def _dispatch(self, number: int, kind: int, payload: bytes) -> None:
        command, name = split_channel(number)
        if kind == RUN or not self._numbers.is_known(command):
            raise FrameError(f"there is no command {command} that could send a frame")
        if command == MACHINE:
            self._handle_machine(name, kind, payload)
        elif kind == CLOSE and name != CONTROL:
            raise FrameError(f"the guest closes {name} alone")
        elif kind == DATA and name == "stdin":
            raise FrameError("the guest sends data on stdin")
        elif command in self._commands:  # else it is closed, and the frame was on its way
            self._handle_command(command, name, kind, payload)

    def _handle_machine(self, name: str, kind: int, payload: bytes) -> None:
        if name != CONTROL:
            raise FrameError(f"the machine itself has no {name}")
        if kind != DATA:
            return
        self._machine_flow.received(len(payload))
        credit = self._machine_flow.consumed(len(payload))
        if credit:
            self.give_credit(channel_of(MACHINE, CONTROL), credit)
        self._lines.add(payload)
        while (line := self._lines.take()) is not None:
            self.on_message(line.decode(errors="replace"))
        if self._lines.is_too_long:
            raise FrameError("a message of the machine has no end")

    def _handle_command(self, command: int, name: str, kind: int, payload: bytes) -> None:
        channels = self._commands[command]
        if kind == CLOSE:
            del self._commands[command]
            self._ended.update(channels.values())
            for channel in channels.values():
                channel.close_when_delivered()
            self.on_end(command)
        elif name in channels:
            channels[name].handle(kind, payload)
        else:
            raise FrameError(f"command {command} has no {name}")


class Channel:
    """One channel of a command, connected to a client's socket."""

    def __init__(self, port: Port, number: int, end: socket.socket) -> None:
        self.number = number
        self._port, self._socket = port, end
        self._flow = Flow()
        self._pending = bytearray()  # for the client
        self._reads, self._closes, self._is_closed = True, False, False
        self._events = 0  # that are watched

    def handle(self, kind: int, payload: bytes) -> None:
        """Act on a frame from the guest. Raises FrameError."""
        if kind == CREDIT:
            self._flow.credited(payload)
        else:
            self._flow.received(len(payload))
            self._pending += payload
            self._write()
        self.update()

    def update(self) -> None:
        """Watch the socket for what can be done with it now."""
        if self._is_closed:
            return
        can_read = self._reads and self._flow.sendable and not self._port.is_busy
        events = (READABLE if can_read else 0) | (WRITABLE if self._pending else 0)
        if events == self._events:
            return
        self._events = events
        if events:
            self._port.loop.watch(self._socket.fileno(), events, self._on_events)
        else:
            self._port.loop.unwatch(self._socket.fileno())

    def close_when_delivered(self) -> None:
        """Close the socket as soon as the client has taken what is pending."""
        self._reads, self._closes = False, True
        self._write()
        self.update()

    def discard(self) -> None:
        """Close the socket now."""
        if not self._is_closed:
            self._is_closed = True
            self._port.loop.unwatch(self._socket.fileno())
            close_connection(self._socket)
            self._port.forget(self)

    def pass_on_rest(self) -> None:
        """Send what the client has written before it has gone, as far as the guest allows."""
        while self._reads and self._flow.sendable and self._receive():
            pass

    def _on_events(self, events: int) -> None:
        if self._pending:
            self._write()
        if self._events & READABLE and events & ~WRITABLE:
            self._receive()
        self.update()

    def _receive(self) -> bool:
        """Send what can be read from the client; return whether there was anything."""
        size = min(self._flow.sendable, MAX_DATA)
        try:
            data = self._socket.recv(size, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return False
        except ConnectionResetError:
            data = b""
        if data:
            self._flow.sent(len(data))
            self._port.send(encode_frame(self.number, DATA, data))
        else:
            self._reads = False
        return bool(data)

    def _write(self) -> None:
        sent = send_now(self._socket, self._pending)
        del self._pending[:sent]
        if self._closes and not self._pending:
            self.discard()
        elif sent:
            credit = self._flow.consumed(sent)
            if credit:
                self._port.give_credit(self.number, credit)
