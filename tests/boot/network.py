"""Simulate a network with a DHCP server and a name server, for a guest's network card.

QEMU exchanges Ethernet frames with this module over a pair of UNIX datagram sockets. The two
servers and ARP are all that answers. No frame reaches the host's own network.
"""

import os
import socket
import socketserver
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Self

from initrd.guest.network.dhcp_packets import checksum
from tests.guest.network.dhcp_server import ACK, OFFER, addresses, option, options_of, reply

SERVER_ADDRESS = "10.9.0.1"  # address of both servers
GUEST_ADDRESS = "10.9.0.50"  # address that the DHCP server leases
NAMES = {"server.example.org": SERVER_ADDRESS, "far.example.org": "192.0.2.7"}
OPTIONS = (
    addresses(1, "255.255.255.0") + addresses(3, SERVER_ADDRESS) + addresses(6, SERVER_ADDRESS)
)
OPTIONS += option(15, b"example.org") + option(26, b"\x05\x78") + option(51, b"\0\0\x0e\x10")
MAC = bytes.fromhex("525400000001")
GREETING = b"hello from the host\n"
_IP, _ARP = 0x0800, 0x0806
_UDP = 17


class Network:
    """One network. The first DHCP message that arrives is dropped; with `silent`, all are."""

    def __init__(self, directory: str, name: str, *, silent: bool = False) -> None:
        self.name, self.silent = name, silent
        self.dhcp_messages: list[int] = []  # types of the DHCP messages that arrived (option 53)
        self.dns_names: list[str] = []  # names in the DNS queries that arrived
        self._host_path, self._guest_path = (
            f"{directory}/{name}.{end}" for end in ("host", "guest")
        )
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._thread = threading.Thread(target=self._serve, daemon=True)

    def __enter__(self) -> Self:
        self._socket.bind(self._host_path)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as client:
            client.sendto(b"", self._host_path)  # an empty datagram ends the thread
        self._thread.join()
        self._socket.close()
        os.unlink(self._host_path)

    def qemu_arguments(self, mac: str) -> tuple[str, ...]:
        """Return the QEMU arguments for a network card in this network."""
        local = f"local.type=unix,local.path={self._guest_path}"
        remote = f"remote.type=unix,remote.path={self._host_path}"
        device = f"virtio-net-pci,netdev={self.name},mac={mac}"
        return ("-netdev", f"dgram,id={self.name},{local},{remote}", "-device", device)

    def _serve(self) -> None:
        while frame := self._socket.recv(65536):
            packet = self._reply_to_frame(frame)
            if packet:
                self._socket.sendto(frame[6:12] + MAC + frame[12:14] + packet, self._guest_path)

    def _reply_to_frame(self, frame: bytes) -> bytes | None:
        """Return the ARP or IP packet that replies to a frame; None for no reply."""
        (ethertype,) = struct.unpack("!H", frame[12:14])
        packet = frame[14:]
        if ethertype == _ARP and packet[24:28] == socket.inet_aton(SERVER_ADDRESS):
            return packet[:6] + b"\0\2" + MAC + packet[24:28] + packet[8:18]
        if ethertype != _IP or packet[9] != _UDP:
            return None
        source_port, port = struct.unpack("!HH", packet[20:24])
        service = {67: self._reply_to_dhcp, 53: self._reply_to_dns}.get(port)
        payload = service(packet[28:]) if service else None
        destination = packet[12:16] if port == 53 else b"\xff" * 4
        return payload and _ip_packet(payload, port, destination, source_port)

    def _reply_to_dhcp(self, message: bytes) -> bytes | None:
        """Return an offer or an acknowledgement; None for a message that is dropped."""
        kind = options_of(message)[53][0]
        self.dhcp_messages.append(kind)
        if self.silent or len(self.dhcp_messages) == 1:
            return None
        xid = int.from_bytes(message[4:8], "big")
        return reply(
            xid,
            message[28:34],
            OFFER if kind == 1 else ACK,
            GUEST_ADDRESS,
            OPTIONS,
            server=SERVER_ADDRESS,
        )

    def _reply_to_dns(self, query: bytes) -> bytes:
        """Return the response to a query with one question (RFC 1035).

        It is the address for an A query, an empty answer for another type, and NXDOMAIN for a
        name that is not in NAMES.
        """
        labels, offset = [], 12
        while query[offset]:
            labels.append(query[offset + 1 : offset + 1 + query[offset]].decode())
            offset += 1 + query[offset]
        question, name = query[12 : offset + 5], ".".join(labels)
        self.dns_names.append(name)
        address = NAMES.get(name)
        has_answer = address is not None and query[offset + 1 : offset + 3] == b"\0\1"
        flags = 0x8180 if address else 0x8183
        header = query[:2] + struct.pack("!HHHHH", flags, 1, has_answer, 0, 0)
        if not has_answer or address is None:
            return header + question
        return header + question + b"\xc0\x0c\0\1\0\1\0\0\0\x3c\0\4" + socket.inet_aton(address)


def _ip_packet(payload: bytes, port: int, destination: bytes, destination_port: int) -> bytes:
    """Return an IPv4 packet from SERVER_ADDRESS with a UDP datagram (checksum 0: not computed)."""
    udp = struct.pack("!HHHH", port, destination_port, 8 + len(payload), 0) + payload
    header = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(udp), 0, 0, 64, _UDP, 0)
    header += socket.inet_aton(SERVER_ADDRESS) + destination
    return header[:10] + checksum(header).to_bytes(2, "big") + header[12:] + udp


@contextmanager
def server() -> Iterator[int]:
    """Run a TCP server on the host's 127.0.0.1 that sends GREETING; yield its port."""

    class Greet(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            self.request.sendall(GREETING)
            self.request.shutdown(socket.SHUT_WR)

    with socketserver.TCPServer(("127.0.0.1", 0), Greet) as tcp_server:
        thread = threading.Thread(target=tcp_server.serve_forever)
        thread.start()
        try:
            yield tcp_server.server_address[1]
        finally:
            tcp_server.shutdown()
            thread.join()
