"""The host's end of a command: the ports of docs/command.md, as sockets that a test controls.

Tests of the guest's side use this module and not `chrootvm`, because they also act as a host that
reads slowly, disconnects, or sends invalid messages.
"""

import select
import socket
import time
from dataclasses import dataclass, field

DEADLINE = 180.0  # seconds


class GuestTimeout(AssertionError):
    """The guest did not do in time what a test waits for."""


@dataclass
class Host:
    """The sockets to the ports of one command, and the bytes received from each."""

    sockets: dict[str, socket.socket]
    received: dict[str, bytes] = field(default_factory=dict)
    paused: set[str] = field(default_factory=set)  # ports that are not read

    @property
    def messages(self) -> list[str]:
        """The complete messages received so far."""
        return self.received["control"].decode().split("\n")[:-1]

    def message(self, word: str) -> str | None:
        """Return the rest of the latest message that begins with `word`; None if there is none."""
        found = [text for text in self.messages if text.split(" ")[0] == word]
        return found[-1].partition(" ")[2] if found else None

    def send(self, message: str) -> None:
        """Send a message."""
        self.sockets["control"].sendall(message.encode() + b"\n")

    def send_stdin(self, data: bytes) -> None:
        """Send `data` as the complete standard input, then its `eof`; read the ports meanwhile."""
        self.write_port("stdin", data)
        self.send(f"eof stdin {len(data)}")

    def write_port(self, name: str, data: bytes) -> None:
        """Write `data` to a port; read the ports meanwhile. Raises GuestTimeout."""
        port, deadline = self.sockets[name], time.monotonic() + DEADLINE
        while data:
            if time.monotonic() > deadline:
                raise GuestTimeout(
                    f"{len(data)} bytes for {name} were not taken{self.failure_context()}"
                )
            _, writable, _ = select.select([], [port], [], 0.01)
            if writable:
                data = data[port.send(data[: 1 << 16]) :]
            self.read(0)

    def expect(self, word: str, seconds: float = DEADLINE) -> str:
        """Wait for a message that begins with `word`; return its rest. Raises GuestTimeout."""
        deadline = time.monotonic() + seconds
        while self.message(word) is None:
            if time.monotonic() > deadline or not self.read(0.1):
                raise GuestTimeout(f"no {word!r}, but {self.messages}{self.failure_context()}")
        return self.message(word) or ""

    def expect_output(
        self, name: str, data: bytes, seconds: float = DEADLINE, *, after: int = 0
    ) -> None:
        """Wait until a port has sent `data` after its first `after` bytes. Raises GuestTimeout."""
        deadline = time.monotonic() + seconds
        while data not in self.received[name][after:]:
            if time.monotonic() > deadline or not self.read(0.1):
                raise GuestTimeout(f"{data!r} is not in {self.received[name][-2000:]!r} of {name}")

    def read(self, seconds: float) -> bool:
        """Read the ports that are not paused. Return False when the control port has closed."""
        ports = {port: name for name, port in self.sockets.items() if name not in self.paused}
        readable, _, _ = select.select(list(ports), [], [], seconds)
        for port in readable:
            data = _receive(port)
            self.received[ports[port]] += data
            if not data:
                self.paused.add(ports[port])
            if not data and ports[port] == "control":
                return False
        return True

    def last_message(self, seconds: float = DEADLINE) -> str:
        """Wait for the last message, such as `exit N`, and all announced bytes; return the message.

        Raises GuestTimeout.
        """
        deadline = time.monotonic() + seconds
        while not (self._find_last_message() and self._has_all_bytes()):
            if time.monotonic() > deadline or not self.read(0.1):
                shown = {name: data[-500:] for name, data in self.received.items()}
                raise GuestTimeout(f"no end, but {shown}{self.failure_context()}")
        return self._find_last_message()

    def _find_last_message(self) -> str:
        words = ("exit", "signal", "failed", "refused")
        return next((text for text in self.messages if text.split(" ")[0] in words), "")

    def _has_all_bytes(self) -> bool:
        ends = [text.split(" ") for text in self.messages if text.startswith("eof ")]
        return all(len(self.received[name]) == int(count) for _, name, count in ends)

    def failure_context(self) -> str:
        """Return more text for the message of a failure."""
        return ""


def _receive(port: socket.socket) -> bytes:
    try:
        return port.recv(1 << 20)
    except ConnectionResetError:  # QEMU has exited without reading all that the test sent
        return b""
