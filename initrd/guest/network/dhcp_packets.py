"""DHCP messages for IPv4, to bytes and back. Pure.

Sources: RFC 2131 (messages), RFC 2132 (options), RFC 3396 (options in several parts). Whatever a
server sends that is no well-formed answer to us reads as None: there may be others on the network.
"""

from initrd.guest.network import ipv4
from initrd.guest.network.ipconfig import is_name
from initrd.record import Record

DISCOVER, OFFER, REQUEST, ACK, NAK = 1, 2, 3, 5, 6
_BOOTREQUEST, _BOOTREPLY, _ETHERNET = 1, 2, 1
_COOKIE = bytes((99, 130, 83, 99))
_OPTIONS = 240  # where they begin: after 236 bytes of fields and the cookie
_SHORTEST = 300  # bytes; BOOTP relays may drop what is shorter
_SNAME, _FILE = slice(44, 108), slice(108, 236)  # fields that may hold further options
_PAD, _NETMASK, _ROUTER, _DNS, _HOSTNAME, _DOMAIN, _MTU = 0, 1, 3, 6, 12, 15, 26
_ADDRESS, _LEASE_TIME, _OVERLOAD, _KIND, _SERVER, _WANTED = 50, 51, 52, 53, 54, 55
_LARGEST, _CLIENT_ID, _END = 57, 61, 255
_ASKED_FOR = (_NETMASK, _ROUTER, _DNS, _HOSTNAME, _DOMAIN, _MTU)
_SMALLEST_MTU = 576  # bytes; RFC 2132 allows less, no IPv4 network has it
CLIENT_PORT, SERVER_PORT = 68, 67
_UDP, _TTL = 17, 64
_NOBODY, _EVERYBODY = bytes(4), b"\xff" * 4
_FRAGMENTED = 0x3FFF  # "more fragments", and the offset


class DhcpClient(Record):
    """Who asks: the same in every message of one exchange."""

    mac: bytes
    xid: int  # transaction, 32 bits
    hostname: str = ""
    client_id: bytes = b""


class DhcpReply(Record):
    """What a server offers, acknowledges or refuses. What it does not say is empty."""

    kind: int
    server: str
    address: str = ""
    prefix: int = 0
    gateway: str = ""
    dns: tuple[str, ...] = ()
    hostname: str = ""
    domain: str = ""
    mtu: int = 0
    lease: int = 0  # seconds


def discover(client: DhcpClient, seconds: int) -> bytes:
    """Return a DHCPDISCOVER, sent `seconds` after the first one."""
    return _message(client, seconds, ((_KIND, bytes([DISCOVER])),))


def request(client: DhcpClient, offer: DhcpReply, seconds: int) -> bytes:
    """Return the DHCPREQUEST that takes an offer."""
    chosen = (
        (_KIND, bytes([REQUEST])),
        (_ADDRESS, ipv4.packed(offer.address)),
        (_SERVER, ipv4.packed(offer.server)),
    )
    return _message(client, seconds, chosen)


def _message(client: DhcpClient, seconds: int, options: tuple[tuple[int, bytes], ...]) -> bytes:
    fields = bytes((_BOOTREQUEST, _ETHERNET, len(client.mac), 0))
    fields += client.xid.to_bytes(4, "big") + min(seconds, 0xFFFF).to_bytes(2, "big")
    fields += bytes(18) + client.mac.ljust(16, b"\0") + bytes(192)
    options += (
        (_CLIENT_ID, client.client_id),
        (_HOSTNAME, client.hostname.encode()),
        (_LARGEST, (1500).to_bytes(2, "big")),
        (_WANTED, bytes(_ASKED_FOR)),
    )
    encoded = b"".join(bytes((code, len(value))) + value for code, value in options if value)
    return (fields + _COOKIE + encoded + bytes([_END])).ljust(_SHORTEST, b"\0")


def parse_reply(message: bytes, client: DhcpClient) -> DhcpReply | None:
    """Return what a server answers to `client`; None for everything else."""
    if len(message) < _OPTIONS or message[0] != _BOOTREPLY or message[236:240] != _COOKIE:
        return None
    mac = message[28 : 28 + len(client.mac)]
    if int.from_bytes(message[4:8], "big") != client.xid or mac != client.mac:
        return None
    try:
        return _answer(ipv4.dotted(message[16:20]), _options(message))
    except (IndexError, ValueError):  # an option that is cut off, or makes no sense
        return None


def _answer(address: str, options: dict[int, bytes]) -> DhcpReply | None:
    kind = options.get(_KIND, b"\0")[0]
    servers = _addresses(options, _SERVER)
    if kind not in (OFFER, ACK, NAK) or not servers:
        return None
    if kind == NAK:
        return DhcpReply(kind, servers[0])
    if not ipv4.is_host(address):
        return None
    return DhcpReply(
        kind=kind,
        server=servers[0],
        address=address,
        prefix=_prefix(options, address),
        gateway=next(iter(_addresses(options, _ROUTER)), ""),
        dns=_addresses(options, _DNS),
        hostname=_name(options, _HOSTNAME),
        domain=_name(options, _DOMAIN),
        mtu=_mtu(options),
        lease=int.from_bytes(options.get(_LEASE_TIME, b""), "big"),
    )


def _options(message: bytes) -> dict[int, bytes]:
    options: dict[int, bytes] = {}
    _collect(message[_OPTIONS:], options)
    overload = options.get(_OVERLOAD, b"\0")[0]
    if overload & 1:
        _collect(message[_FILE], options)
    if overload & 2:
        _collect(message[_SNAME], options)
    return options


def _collect(data: bytes, options: dict[int, bytes]) -> None:
    at = 0
    while at < len(data) and data[at] != _END:
        if data[at] == _PAD:
            at += 1
            continue
        code, size = data[at], data[at + 1]
        value = data[at + 2 : at + 2 + size]
        if len(value) < size:
            raise ValueError(f"option {code} is cut off")
        options[code] = options.get(code, b"") + value
        at += 2 + size


def _addresses(options: dict[int, bytes], code: int) -> tuple[str, ...]:
    value = options.get(code, b"")
    every = (ipv4.dotted(value[at : at + 4]) for at in range(0, len(value) - 3, 4))
    return tuple(address for address in every if ipv4.is_host(address))


def _prefix(options: dict[int, bytes], address: str) -> int:
    mask = options.get(_NETMASK, b"")
    if len(mask) != 4:
        return ipv4.class_prefix(address)
    return ipv4.mask_prefix(int.from_bytes(mask, "big"))


def _name(options: dict[int, bytes], code: int) -> str:
    """Return a name that may be written to a file; nothing for one that may not."""
    text = options.get(code, b"").rstrip(b"\0").decode("ascii", "replace")
    return text if text and is_name(text) else ""


def _mtu(options: dict[int, bytes]) -> int:
    mtu = int.from_bytes(options.get(_MTU, b""), "big")
    return mtu if _SMALLEST_MTU <= mtu <= 0xFFFF else 0


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
