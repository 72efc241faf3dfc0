"""The port of a machine that runs several commands: channels for their messages and streams.

The bytes of all channels share one port, as frames of `initrd.frames`. What cannot be sent or
written at once waits in its own channel, up to a window, and holds up no other one.
"""

import posix as os

from initrd.frames import (
    CLOSE,
    CONTROL,
    CREDIT,
    DATA,
    HEADER_SIZE,
    MACHINE,
    MAX_DATA,
    RUN,
    Decoder,
    Flow,
    FrameError,
    Numbers,
    channel_of,
    encode_credit,
    encode_frame,
    encode_header,
    split_channel,
)
from initrd.guest._syscalls import POLLERR, POLLHUP, POLLIN, POLLNVAL, POLLOUT
from initrd.guest.command.control import Messages
from initrd.guest.command.streams import CLOSED_EVENTS, SEGMENT_SIZE, Copy

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable


_BUFFER_SIZE = 1 << 16  # bytes: the capacity of a pipe; the port's driver takes it in two pieces


class Port:
    """The port, split into channels. A handler of `Loop`."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._decoder = Decoder()
        self._numbers = Numbers()
        self._outgoing = bytearray()
        self._channels: dict[int, Channel] = {}
        # For one read of any descriptor, and a header before it.
        self._buffer = memoryview(bytearray(_BUFFER_SIZE))
        self.payload = self._buffer[HEADER_SIZE:]
        starts = range(0, _BUFFER_SIZE, SEGMENT_SIZE)
        self._segments = [self._buffer[at : at + SEGMENT_SIZE] for at in starts]
        self.disconnected = False  # the host has closed its end
        self._has_failed = False
        self.on_run: Callable[[int, bytes], None] = lambda _number, _content: None
        self.on_error: Callable[[str], None] = lambda _why: None  # no more is received after it

    @property
    def is_busy(self) -> bool:
        """Whether enough bytes wait for the port: no more should be read for it."""
        return len(self._outgoing) >= MAX_DATA

    def open_channel(self, command: int, name: str) -> "Channel":
        """Return a new channel."""
        channel = Channel(self, channel_of(command, name))
        self._channels[channel.number] = channel
        return channel

    def close_command(self, command: int) -> None:
        """Forget the channels of a command, and report that it has ended."""
        self._forget(command)
        self.send(encode_frame(channel_of(command, CONTROL), CLOSE))

    def send(self, frame: bytes) -> None:
        """Send a frame: now as much as the port accepts, the rest later."""
        self._outgoing += frame
        self._transmit()

    def send_payload(self, channel: int, size: int) -> None:
        """Send `payload[:size]` as DATA. What the port accepts at once is not copied."""
        self._buffer[:HEADER_SIZE] = encode_header(channel, DATA, size)
        frame = self._buffer[: HEADER_SIZE + size]
        while frame and not self._outgoing and not self.disconnected:
            sent = self._write(frame)
            frame = frame[sent:]
            if not sent:
                break
        self._outgoing += frame

    def poll_entries(self) -> "list[tuple[int, int]]":
        """Return the descriptor and its events for poll(2)."""
        if self.disconnected:
            return []
        return [(self._fd, POLLIN | (POLLOUT if self._outgoing else 0))]

    def handle_events(self, ready: "dict[int, int]") -> None:
        """Read and write without blocking."""
        events = ready.get(self._fd, 0)
        if events & POLLIN:
            self._receive()
        elif events & (POLLERR | POLLHUP | POLLNVAL):
            self.disconnected = True
        self._transmit()

    def _transmit(self) -> None:
        while self._outgoing and not self.disconnected:
            sent = self._write(self._outgoing)
            if not sent:
                return
            del self._outgoing[:sent]

    def _write(self, data: "bytearray | memoryview") -> int:
        """Write as much as the port accepts now; return the number of bytes."""
        try:
            return os.write(self._fd, data)
        except BlockingIOError:
            return 0
        except BrokenPipeError:
            self.disconnected = True
            return 0

    def _receive(self) -> None:
        try:
            count = os.readv(self._fd, self._segments)
        except BlockingIOError:
            return
        if not count:
            self.disconnected = True
        if not self._has_failed:
            self._decode(self._buffer[:count])

    def _decode(self, data: memoryview) -> None:
        try:
            for number, kind, payload in self._decoder.feed(data):
                self._dispatch(number, kind, payload)
        except FrameError as error:
            self._has_failed = True
            self.on_error(str(error))

    def _dispatch(self, number: int, kind: int, payload: bytes) -> None:
        command, name = split_channel(number)
        channel = self._channels.get(number)
        if kind == RUN:
            self._numbers.use(command)
            self.on_run(command, payload)
        elif channel:
            channel.handle(kind, payload)
        elif not self._numbers.is_known(command):
            raise FrameError(f"there is no command {command} with a channel {name}")
        if kind == CLOSE and name == CONTROL and command != MACHINE:
            self._forget(command)

    def _forget(self, command: int) -> None:
        known = (number for number in self._channels if split_channel(number)[0] == command)
        for number in tuple(known):
            del self._channels[number]


class Channel:
    """One channel of the port."""

    def __init__(self, port: Port, number: int) -> None:
        self.number = number
        self.port = port
        self.flow = Flow()
        self.on_data: Callable[[bytes], None] = lambda _payload: None
        self.on_credit: Callable[[], None] = lambda: None
        self.on_close: Callable[[], None] = lambda: None  # by the host

    def handle(self, kind: int, payload: bytes) -> None:
        """Act on a frame. Raises FrameError."""
        if kind == DATA:
            self.flow.received(len(payload))
            self.on_data(payload)
        elif kind == CREDIT:
            self.flow.credited(payload)
            self.on_credit()
        elif kind == CLOSE:
            self.on_close()

    def send(self, data: "bytes | memoryview") -> int:
        """Send the beginning of `data`, as much as the host allows; return its size in bytes."""
        piece = data[: min(self.flow.sendable, MAX_DATA)]
        if piece:
            self.flow.sent(len(piece))
            self.port.send(encode_frame(self.number, DATA, piece))
        return len(piece)

    def send_payload(self, size: int) -> None:
        """Send the beginning of the port's payload buffer; the host allows so many bytes."""
        self.flow.sent(size)
        self.port.send_payload(self.number, size)

    def consumed(self, count: int) -> None:
        """Allow the host to send as many bytes again."""
        credit = self.flow.consumed(count)
        if credit:
            self.port.send(encode_credit(self.number, credit))


class ControlChannel(Messages):
    """Messages on a channel."""

    def __init__(self, channel: Channel) -> None:
        super().__init__()
        self._channel = channel
        channel.on_data, channel.on_credit = self._on_data, self._transmit
        channel.on_close = self._on_close

    def _on_data(self, payload: bytes) -> None:
        self._channel.consumed(len(payload))
        self._receive(payload)

    def _on_close(self) -> None:
        self.disconnected = True

    def _transmit(self) -> None:
        sent = -1
        while self._outgoing and sent:
            sent = self._channel.send(self._outgoing)
            self._outgoing = self._outgoing[sent:]


class ChannelInput(Copy):
    """A copy of a channel to a descriptor."""

    def __init__(self, channel: Channel, sink: int, on_end: "Callable[[Copy], None]") -> None:
        super().__init__(-1, sink, on_end)
        self._channel = channel
        channel.on_data = self._on_data

    def poll_entries(self) -> "list[tuple[int, int]]":
        """Return what to poll(2) for. The sink is always included: it can be closed at any time."""
        return [] if self.ended else [(self.sink, POLLOUT if self._pending else 0)]

    def handle_events(self, ready: "dict[int, int]") -> None:
        """Write what has been received."""
        if self.ended:
            return
        if ready.get(self.sink, 0) & CLOSED_EVENTS:
            self.end(broken=True)
        else:
            self._write()

    def _on_data(self, payload: bytes) -> None:
        self.received += len(payload)
        if self.ended:  # the host has been told by the message `closed`
            return
        pending = self._pending
        self._pending = memoryview(b"".join((pending, payload)) if pending else payload)
        self._write()

    def _write(self) -> None:
        before = len(self._pending)
        self._drain()
        self._channel.consumed(before - len(self._pending))
        self._check_length()


class ChannelOutput(Copy):
    """A copy of a descriptor to a channel. Reads no more than can be sent: nothing is pending."""

    def __init__(self, channel: Channel, source: int, on_end: "Callable[[Copy], None]") -> None:
        super().__init__(source, -1, on_end)
        self._channel = channel
        self._finishes = False
        channel.on_credit = self._on_credit

    def poll_entries(self) -> "list[tuple[int, int]]":
        """Return what to poll(2) for: nothing while the host or the port accepts nothing."""
        if self.ended or not self._channel.flow.sendable or self._channel.port.is_busy:
            return []
        return [(self.source, POLLIN)]

    def handle_events(self, ready: "dict[int, int]") -> None:
        """Read, and send what was read."""
        if not self.ended:
            self._copy()

    def finish(self) -> None:
        """End the copy after what can be read without waiting: its program has ended."""
        self._finishes = True
        while not self.ended and self._channel.flow.sendable:
            if self._copy() < 0:
                self.end()

    def _on_credit(self) -> None:
        if self._finishes:
            self.finish()

    def _copy(self) -> int:
        """Copy one piece; return its size in bytes, 0 at the end, -1 if there is nothing yet."""
        payload = self._channel.port.payload[: self._channel.flow.sendable]
        count = self._read_into([payload])
        if count > 0:
            self._channel.send_payload(count)
        return count


class ChannelLink:
    """Connects the streams of a command to its channels."""

    def __init__(self, port: Port, command: int) -> None:
        self._port, self._command = port, command
        self._channels: dict[str, Channel] = {}

    def channel(self, name: str) -> Channel:
        """Return a channel; both directions of a terminal use the same one."""
        if name not in self._channels:
            self._channels[name] = self._port.open_channel(self._command, name)
        return self._channels[name]

    def input(self, name: str, sink: int, on_end: "Callable[[Copy], None]") -> Copy:
        """Return the copy of a stream from the host to a descriptor."""
        return ChannelInput(self.channel(name), sink, on_end)

    def output(self, name: str, source: int, on_end: "Callable[[Copy], None]") -> Copy:
        """Return the copy of a stream from a descriptor to the host."""
        return ChannelOutput(self.channel(name), source, on_end)
