"""Encode the messages of a DHCP server, for unit tests and boot tests."""

import socket
import struct

OFFER, ACK, NAK = 2, 5, 6
COOKIE = bytes((99, 130, 83, 99))
SERVER = "10.9.0.1"


def option(code: int, value: bytes) -> bytes:
    return bytes((code, len(value))) + value


def addresses(code: int, *texts: str) -> bytes:
    return option(code, b"".join(socket.inet_aton(text) for text in texts))


def options_of(message: bytes) -> dict[int, bytes]:
    """Return the options of a client's message, by code."""
    options, offset = {}, 240
    while message[offset] != 255:
        size = message[offset + 1]
        options[message[offset]] = message[offset + 2 : offset + 2 + size]
        offset += 2 + size
    return options


def reply(
    xid: int,
    mac: bytes,
    kind: int,
    address: str = "10.9.0.50",
    options: bytes = b"",
    *,
    server: str = SERVER,
    sname: bytes = b"",
    file: bytes = b"",
) -> bytes:
    """Return a reply: fixed fields, message type `kind`, server identifier and `options`."""
    yiaddr = socket.inet_aton(address)
    fields = struct.pack(
        "!BBBBIHH4s4s4s4s", 2, 1, 6, 0, xid, 0, 0, bytes(4), yiaddr, bytes(4), bytes(4)
    )
    fields += mac.ljust(16, b"\0") + sname.ljust(64, b"\0") + file.ljust(128, b"\0")
    first_options = option(53, bytes([kind])) + (addresses(54, server) if server else b"")
    return fields + COOKIE + first_options + options + b"\xff"


def datagram(payload: bytes, *, source: int = 67, to: int = 68) -> bytes:
    """Return an IP packet with a UDP datagram from the server to 255.255.255.255, no checksums."""
    udp = struct.pack("!HHHH", source, to, 8 + len(payload), 0) + payload
    header = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(udp), 0, 0, 64, 17, 0)
    return header + socket.inet_aton(SERVER) + b"\xff" * 4 + udp
