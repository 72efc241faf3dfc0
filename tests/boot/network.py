"""A network of the test's own: a virtual machine's other end of the wire.

Frames go over a pair of UNIX datagram sockets. On it are a DHCP server and a name server; nothing
else answers, and nothing of it reaches this machine's own network.
"""

import os
import socket
import socketserver
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Self

from initrd.guest.network.dhcp_packets import checksum
from tests.guest.network.dhcp_server import ACK, OFFER, addresses, option, options_of, reply

OURS = "10.9.0.1"
GUEST = "10.9.0.50"
NAMES = {"server.example.org": OURS, "far.example.org": "192.0.2.7"}
OPTIONS = addresses(1, "255.255.255.0") + addresses(3, OURS) + addresses(6, OURS)
OPTIONS += option(15, b"example.org") + option(26, b"\x05\x78") + option(51, b"\0\0\x0e\x10")
MAC = bytes.fromhex("525400000001")
GREETING = b"hello from the host\n"
_IP, _ARP = 0x0800, 0x0806
_UDP = 17


class Network:
    """One wire. `silent`: there is no DHCP server. The first message of each client is lost."""

    def __init__(self, directory: str, name: str, *, silent: bool = False) -> None:
        self.name, self.silent = name, silent
        self.asked: list[int] = []  # kinds of the DHCP messages that came
        self.looked_up: list[str] = []
        self._here, self._there = (f"{directory}/{name}.{end}" for end in ("host", "guest"))
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._thread = threading.Thread(target=self._serve, daemon=True)

    def __enter__(self) -> Self:
        self._socket.bind(self._here)
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as last:
            last.sendto(b"", self._here)
        self._thread.join()
        self._socket.close()
        os.unlink(self._here)

    def qemu_arguments(self, mac: str) -> tuple[str, ...]:
        """A network card at this wire."""
        ends = f"local.type=unix,local.path={self._there},remote.type=unix,remote.path={self._here}"
        device = f"virtio-net-pci,netdev={self.name},mac={mac}"
        return ("-netdev", f"dgram,id={self.name},{ends}", "-device", device)

    def _serve(self) -> None:
        while frame := self._socket.recv(65536):
            answer = self._answer(frame)
            if answer:
                self._socket.sendto(frame[6:12] + MAC + frame[12:14] + answer, self._there)

    def _answer(self, frame: bytes) -> bytes | None:
        (kind,) = struct.unpack("!H", frame[12:14])
        packet = frame[14:]
        if kind == _ARP and packet[24:28] == socket.inet_aton(OURS):
            return packet[:6] + b"\0\2" + MAC + packet[24:28] + packet[8:18]
        if kind != _IP or packet[9] != _UDP:
            return None
        source, port = struct.unpack("!HH", packet[20:24])
        served = {67: self._lease, 53: self._resolve}.get(port)
        payload = served(packet[28:]) if served else None
        to = packet[12:16] if port == 53 else b"\xff" * 4
        return payload and _datagram(payload, port, to, source)

    def _lease(self, message: bytes) -> bytes | None:
        kind = options_of(message)[53][0]
        self.asked.append(kind)
        if self.silent or len(self.asked) == 1:
            return None
        xid = int.from_bytes(message[4:8], "big")
        return reply(xid, message[28:34], OFFER if kind == 1 else ACK, GUEST, OPTIONS, server=OURS)

    def _resolve(self, query: bytes) -> bytes:
        """Answer one question as RFC 1035 has it: with an address, with none, or "no such name"."""
        labels, at = [], 12
        while query[at]:
            labels.append(query[at + 1 : at + 1 + query[at]].decode())
            at += 1 + query[at]
        question, name = query[12 : at + 5], ".".join(labels)
        self.looked_up.append(name)
        address = NAMES.get(name)
        wanted = address is not None and query[at + 1 : at + 3] == b"\0\1"
        head = query[:2] + struct.pack("!HHHHH", 0x8180 if address else 0x8183, 1, wanted, 0, 0)
        if not wanted or address is None:
            return head + question
        return head + question + b"\xc0\x0c\0\1\0\1\0\0\0\x3c\0\4" + socket.inet_aton(address)


def _datagram(payload: bytes, port: int, to: bytes, to_port: int) -> bytes:
    udp = struct.pack("!HHHH", port, to_port, 8 + len(payload), 0) + payload
    head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(udp), 0, 0, 64, _UDP, 0)
    head += socket.inet_aton(OURS) + to
    return head[:10] + checksum(head).to_bytes(2, "big") + head[12:] + udp


@contextmanager
def server() -> Iterator[int]:
    """A server on this machine's loopback that greets and closes; its port."""

    class Greet(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            self.request.sendall(GREETING)
            self.request.shutdown(socket.SHUT_WR)

    with socketserver.TCPServer(("127.0.0.1", 0), Greet) as it:
        thread = threading.Thread(target=it.serve_forever)
        thread.start()
        try:
            yield it.server_address[1]
        finally:
            it.shutdown()
            thread.join()
