"""The host's end of a machine that runs several commands: the frames of docs/command.md.

Tests of the guest use it. Each command has the channels that a test reads; a test decides when
credit is given, and may stop reading.
"""

import select
import socket
import time
from collections import defaultdict
from dataclasses import dataclass, field

from initrd import frames
from initrd.command import Command, dump
from initrd.text import parse_natural

DEADLINE = 60.0  # seconds


@dataclass
class FramesHost:
    """The socket to the port, and what was received on each channel, by (command, name)."""

    socket: socket.socket
    lines: bytes = b""  # before the first frame
    received: dict[tuple[int, str], bytes] = field(default_factory=lambda: defaultdict(bytes))
    closed: set[int] = field(default_factory=set)  # commands
    without_credit: set[tuple[int, str]] = field(default_factory=set)
    sendable: dict[int, int] = field(default_factory=lambda: defaultdict(lambda: frames.WINDOW))
    numbers: frames.Numbers = field(default_factory=frames.Numbers)
    decoder: frames.Decoder = field(default_factory=frames.Decoder)
    unsent: bytearray = field(default_factory=bytearray)

    def expect_line(self, line: str) -> None:
        """Wait for a line before the first frame. Later bytes are frames after `frames 2`."""
        deadline = time.monotonic() + DEADLINE
        while f"{line}\n".encode() not in self.lines:
            assert time.monotonic() < deadline, self.lines
            if select.select([self.socket], [], [], 0.1)[0]:
                data = self.socket.recv(1 << 16)
                assert data, self.lines
                self.lines += data
        if line.startswith("frames"):
            self.lines, _, rest = self.lines.partition(b"frames 2\n")
            self.decode(rest)

    def run(self, *argv: str, environ: tuple[bytes, ...] = (), **changes: object) -> int:
        """Start a command; return its number."""
        command = Command(tuple(word.encode() for word in argv), environ).replace(**changes)
        return self.run_content(dump(command))

    def run_content(self, content: bytes) -> int:
        """Send a frame RUN with any content; return the command's number."""
        number = self.numbers.next()
        self.send_frame(frames.channel_of(number, frames.CONTROL), frames.RUN, content)
        return number

    def send_frame(self, channel: int, kind: int, payload: bytes = b"") -> None:
        self.send_bytes(frames.encode_frame(channel, kind, payload))

    def send_bytes(self, data: bytes) -> None:
        """Send bytes; read meanwhile. Credit that is given meanwhile is sent after them."""
        deadline = time.monotonic() + DEADLINE
        self.unsent += data
        while self.unsent:
            assert time.monotonic() < deadline, "the guest does not read"
            if select.select([], [self.socket], [], 0.1)[1]:
                sent = self.socket.send(self.unsent[: 1 << 16], socket.MSG_DONTWAIT)
                del self.unsent[:sent]
            self.read(0)

    def send(self, number: int, message: str) -> None:
        """Send a message about a command, or to the machine."""
        self.send_data(number, frames.CONTROL, f"{message}\n".encode())

    def send_data(self, number: int, name: str, data: bytes) -> None:
        """Send bytes of a stream, as the guest gives credit for them."""
        channel, deadline = frames.channel_of(number, name), time.monotonic() + DEADLINE
        while data:
            assert time.monotonic() < deadline, f"{len(data)} bytes are not taken"
            size = min(len(data), self.sendable[channel], frames.MAX_DATA)
            if size:
                self.sendable[channel] -= size
                self.send_frame(channel, frames.DATA, data[:size])
                data = data[size:]
            else:
                self.read(0.1)

    def send_stdin(self, number: int, data: bytes) -> None:
        self.send_data(number, "stdin", data)
        self.send(number, f"eof stdin {len(data)}")

    def close(self, number: int) -> None:
        """Close a command before its end."""
        self.send_frame(frames.channel_of(number, frames.CONTROL), frames.CLOSE)

    def read(self, seconds: float) -> bool:
        """Read what is there; return False when the guest has closed the port."""
        if not select.select([self.socket], [], [], seconds)[0]:
            return True
        try:
            data = self.socket.recv(1 << 18)
        except ConnectionResetError:
            return False
        self.decode(data)
        if self.unsent and select.select([], [self.socket], [], 0)[1]:
            del self.unsent[: self.socket.send(self.unsent, socket.MSG_DONTWAIT)]
        return bool(data)

    def decode(self, data: bytes) -> None:
        for channel, kind, payload in self.decoder.feed(data):
            number, name = frames.split_channel(channel)
            if kind == frames.DATA:
                self.received[number, name] += payload
                if (number, name) not in self.without_credit:
                    self.unsent += frames.encode_credit(channel, len(payload))
            elif kind == frames.CREDIT:
                self.sendable[channel] += int.from_bytes(payload, "little")
            else:
                assert (kind, name) == (frames.CLOSE, frames.CONTROL)
                self.closed.add(number)

    def messages(self, number: int) -> list[str]:
        return self.received[number, frames.CONTROL].decode().split("\n")[:-1]

    def expect(self, number: int, *words: str, seconds: float = DEADLINE) -> str:
        """Wait for a message that begins with one of `words`; return it."""
        deadline = time.monotonic() + seconds
        while True:
            for message in self.messages(number):
                if message.split(" ")[0] in words:
                    return message
            assert time.monotonic() < deadline, (words, self.messages(number))
            assert self.read(0.1), f"the port is closed: {self.messages(number)}"

    def end(self, number: int, seconds: float = DEADLINE) -> str:
        """Wait for the end of a command and all of its output; return its last message."""
        last = self.expect(number, "exit", "signal", "failed", "refused", seconds=seconds)
        for message in self.messages(number):
            words = message.split(" ")
            if words[0] == "eof":
                assert len(self.received[number, words[1]]) == parse_natural(words[2])
        deadline = time.monotonic() + seconds
        while number not in self.closed:
            assert time.monotonic() < deadline, "the command is not closed"
            self.read(0.1)
        return last

    def expect_output(
        self, number: int, data: bytes, name: str = "stdout", seconds: float = DEADLINE
    ) -> None:
        deadline = time.monotonic() + seconds
        while data not in self.received[number, name]:
            assert time.monotonic() < deadline, self.received[number, name][-1000:]
            self.read(0.1)
