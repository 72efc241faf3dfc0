"""A client of QEMU's stub for gdb, in the place of gdb.

Source: "Debugging with GDB", appendix "GDB Remote Serial Protocol".
"""

import socket
from typing import Self

_TIMEOUT = 180.0  # seconds


class Gdb:
    """A connection to the stub, which stops the machine."""

    def __init__(self, address: str) -> None:
        """`address`: as that of gdb's `target remote`."""
        if address.startswith("/"):
            self._socket = socket.socket(socket.AF_UNIX)
            self._socket.connect(address)
        else:
            host, _, port = address.partition(":")
            self._socket = socket.create_connection((host, int(port)))
        self._socket.settimeout(_TIMEOUT)
        self._received = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def ask(self, packet: str) -> str:
        """Send a packet; return the reply."""
        self.send(packet)
        return self.receive()

    def send(self, packet: str) -> None:
        """Send a packet, as `c`, to which there is no reply before the machine stops."""
        data = packet.encode()
        self._socket.sendall(b"$%s#%02x" % (data, sum(data) % 256))

    def interrupt(self) -> None:
        """Stop the machine."""
        self._socket.sendall(b"\x03")
        self.receive()

    def receive(self) -> str:
        """Return the next packet, and acknowledge it."""
        while b"#" not in self._received[:-2]:
            piece = self._socket.recv(1 << 12)
            assert piece, "the stub has closed the connection"
            self._received += piece
        packet, _, rest = self._received.partition(b"#")
        self._received = rest[2:]  # without the checksum
        self._socket.sendall(b"+")
        return packet.partition(b"$")[2].decode()
