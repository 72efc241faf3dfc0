"""Frames: how one port carries the messages and streams of several commands.

The host and the guest both use this module. `docs/command.md` describes the format. Pure; imports
little, because a machine that has just started executes each import slowly.

A channel is one stream of one command, or its messages. `Flow` limits how much of a channel may be
on its way, so that a reader that stands still holds up its own channel only.
"""

from initrd.command import STREAMS, TERMINAL

VERSION = 2  # of the protocol
RUN, DATA, CREDIT, CLOSE = 1, 2, 3, 4  # kinds of frames
MACHINE = 0  # the number of the machine itself among the commands
CONTROL = "control"
CHANNELS = (CONTROL, *STREAMS, TERMINAL)  # of a command, by index
MAX_DATA = 1 << 16  # bytes of a frame's payload
MAX_RUN = 1 << 22  # bytes of the payload of RUN: arguments and environment of execve(2) are less
WINDOW = 1 << 18  # bytes of a channel that may be sent before they are read
HEADER_SIZE = 8  # bytes
_CHANNELS_PER_COMMAND = 8
_MAX_COMMAND = (1 << 29) - 1


class FrameError(ValueError):
    """The other side has sent what this version does not know, or more than it may."""


def channel_of(command: int, name: str) -> int:
    """Return the number of a command's channel."""
    return command * _CHANNELS_PER_COMMAND + CHANNELS.index(name)


def split_channel(channel: int) -> tuple[int, str]:
    """Return the command and the name of a channel. Raises FrameError."""
    command, index = divmod(channel, _CHANNELS_PER_COMMAND)
    if index >= len(CHANNELS):
        raise FrameError(f"there is no channel {channel}")
    return command, CHANNELS[index]


def encode_frame(channel: int, kind: int, payload: "bytes | memoryview" = b"") -> bytes:
    """Return a frame."""
    return encode_header(channel, kind, len(payload)) + payload


def encode_header(channel: int, kind: int, size: int) -> bytes:
    """Return the header of a frame with `size` bytes of payload."""
    return (channel | kind << 32 | size << 40).to_bytes(HEADER_SIZE, "little")


def encode_credit(channel: int, count: int) -> bytes:
    """Return the frame that allows the other side to send `count` more bytes."""
    return encode_frame(channel, CREDIT, count.to_bytes(4, "little"))


class Decoder:
    """Splits received bytes into frames."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: "bytes | memoryview") -> "list[tuple[int, int, bytes]]":
        """Return (channel, kind, payload) of each frame that is complete. Raises FrameError."""
        buffer = self._buffer
        buffer += data
        frames: list[tuple[int, int, bytes]] = []
        at = 0
        while len(buffer) - at >= HEADER_SIZE:
            word = int.from_bytes(buffer[at : at + HEADER_SIZE], "little")
            kind, size = word >> 32 & 0xFF, word >> 40
            _check(kind, size)
            end = at + HEADER_SIZE + size
            if end > len(buffer):
                break
            frames.append((word & 0xFFFFFFFF, kind, bytes(buffer[at + HEADER_SIZE : end])))
            at = end
        del buffer[:at]
        return frames


def _check(kind: int, size: int) -> None:
    """Raise FrameError for an unknown kind of frame, or a payload of a wrong size."""
    if kind == DATA:
        valid = 0 < size <= MAX_DATA
    elif kind == RUN:
        valid = 0 < size <= MAX_RUN
    elif kind == CREDIT:
        valid = size == 4
    elif kind == CLOSE:
        valid = size == 0
    else:
        raise FrameError(f"frames of the kind {kind} are unknown to version {VERSION}")
    if not valid:
        raise FrameError(f"a frame of the kind {kind} has {size} bytes")


class Flow:
    """How many bytes of one channel may be sent, and how many may still be received."""

    def __init__(self) -> None:
        self.sendable = WINDOW
        self._receivable = WINDOW
        self._consumed = 0  # bytes received and passed on, for which no credit was sent yet

    def sent(self, count: int) -> None:
        """Count bytes that were sent."""
        self.sendable -= count

    def credited(self, payload: bytes) -> None:
        """Allow what a CREDIT frame allows. Raises FrameError for more than a window."""
        self.sendable += int.from_bytes(payload, "little")
        if self.sendable > WINDOW:
            raise FrameError("there is more credit than was used")

    def received(self, count: int) -> None:
        """Count bytes that were received. Raises FrameError for more than was allowed."""
        self._receivable -= count
        if self._receivable < 0:
            raise FrameError("more bytes than allowed were sent")

    def consumed(self, count: int) -> int:
        """Count bytes that were passed on; return the credit to send, 0 as long as it is little."""
        self._consumed += count
        if self._consumed * 2 < WINDOW:
            return 0
        credit, self._consumed = self._consumed, 0
        self._receivable += credit
        return credit


class Numbers:
    """The numbers of the commands of one machine, which are used in ascending order, once each."""

    def __init__(self) -> None:
        self._last = MACHINE

    def next(self) -> int:
        """Return a new number. Raises FrameError after the last one."""
        if self._last >= _MAX_COMMAND:
            raise FrameError("the machine has run too many commands")
        self._last += 1
        return self._last

    def use(self, number: int) -> None:
        """Count a number that the other side has chosen. Raises FrameError for any but the next."""
        if number != self.next():
            raise FrameError(f"command {number} has come out of order")

    def is_known(self, number: int) -> bool:
        """Return whether the number is in use, or was."""
        return number <= self._last
