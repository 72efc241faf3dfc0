"""The IP and UDP headers around a DHCP message: an interface without address cannot use UDP. Pure.

Sources: RFC 791, RFC 768, RFC 1071 (checksum).
"""

CLIENT_PORT, SERVER_PORT = 68, 67
_UDP, _TTL = 17, 64
_NOBODY, _EVERYBODY = bytes(4), b"\xff" * 4
_FRAGMENTED = 0x3FFF  # "more fragments", and the offset


def wrap(payload: bytes) -> bytes:
    """Return the IP packet that brings `payload` from nobody's address to every DHCP server."""
    length = 8 + len(payload)
    udp = _words(CLIENT_PORT, SERVER_PORT, length)
    pseudo = _NOBODY + _EVERYBODY + bytes((0, _UDP)) + _words(length)
    udp += _words(checksum(pseudo + udp + payload) or 0xFFFF) + payload
    header = bytes((0x45, 0)) + _words(20 + length, 0, 0) + bytes((_TTL, _UDP))
    return header + _words(checksum(header + _NOBODY + _EVERYBODY)) + _NOBODY + _EVERYBODY + udp


def unwrap(packet: bytes) -> bytes | None:
    """Return what an IP packet brings to the DHCP client; None when it is not for it.

    Checksums are not looked at: between virtual machines of one host they are often left undone.
    """
    if len(packet) < 20 or packet[0] >> 4 != 4 or packet[9] != _UDP:
        return None
    header = (packet[0] & 15) * 4
    total = min(int.from_bytes(packet[2:4], "big"), len(packet))
    udp = packet[header:total]
    if header < 20 or len(udp) < 8 or int.from_bytes(packet[6:8], "big") & _FRAGMENTED:
        return None
    if udp[:4] != _words(SERVER_PORT, CLIENT_PORT):
        return None
    return udp[8 : int.from_bytes(udp[4:6], "big")]


def checksum(data: bytes) -> int:
    """Return the Internet checksum of `data`."""
    if len(data) % 2:
        data += b"\0"
    total = sum(int.from_bytes(data[at : at + 2], "big") for at in range(0, len(data), 2))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def _words(*values: int) -> bytes:
    return b"".join(value.to_bytes(2, "big") for value in values)
