"""Encode and parse DHCP messages for IPv4, and the UDP packets that carry them. Pure functions.

Sources: RFC 2131 (messages), RFC 2132 (options), RFC 3396 (options in several parts). Parsers
return None for a packet that is malformed or addressed to another client: a network may have many.
"""

from initrd.guest.network import ipv4
from initrd.guest.network.ipconfig import is_name
from initrd.record import Record

DISCOVER, OFFER, REQUEST, ACK, NAK = 1, 2, 3, 5, 6
CLIENT_PORT, SERVER_PORT = 68, 67
_BOOTREQUEST, _BOOTREPLY, _ETHERNET = 1, 2, 1
_COOKIE = bytes((99, 130, 83, 99))
_OPTIONS_OFFSET = 240  # after 236 bytes of fields and the cookie
_MIN_MESSAGE = 300  # bytes; BOOTP relays may drop a shorter message
_SNAME, _FILE = slice(44, 108), slice(108, 236)  # fields that may hold further options
# Option codes of RFC 2132.
_PAD, _NETMASK, _ROUTER, _DNS, _HOSTNAME, _DOMAIN, _MTU = 0, 1, 3, 6, 12, 15, 26
_REQUESTED_ADDRESS, _LEASE_TIME, _OVERLOAD, _MESSAGE_TYPE, _SERVER_ID = 50, 51, 52, 53, 54
_PARAMETER_LIST, _MAX_MESSAGE_SIZE, _CLIENT_ID, _END = 55, 57, 61, 255
_REQUESTED_OPTIONS = (_NETMASK, _ROUTER, _DNS, _HOSTNAME, _DOMAIN, _MTU)
_MIN_MTU = 576  # bytes; RFC 2132 allows less, but no IPv4 network has a smaller MTU
_UDP, _TTL = 17, 64  # fields of the IPv4 header
_UNSPECIFIED, _BROADCAST = bytes(4), b"\xff" * 4  # addresses: 0.0.0.0, 255.255.255.255
_FRAGMENT_MASK = 0x3FFF  # the flag "more fragments" and the fragment offset


class DhcpClient(Record):
    """The fields that identify a client, equal in all messages of one exchange."""

    mac: bytes
    xid: int  # transaction identifier, 32 bits
    hostname: str = ""
    client_id: bytes = b""


class DhcpReply(Record):
    """A server's OFFER, ACK or NAK. Values that the message lacks are empty or 0."""

    message_type: int
    server: str
    address: str = ""
    prefix: int = 0
    gateway: str = ""
    dns: tuple[str, ...] = ()
    hostname: str = ""
    domain: str = ""
    mtu: int = 0  # bytes
    lease_time: int = 0  # seconds


def encode_discover(client: DhcpClient, seconds: int) -> bytes:
    """Return a DHCPDISCOVER that is sent `seconds` after the start of the exchange."""
    return _encode(client, seconds, ((_MESSAGE_TYPE, bytes([DISCOVER])),))


def encode_request(client: DhcpClient, offer: DhcpReply, seconds: int) -> bytes:
    """Return the DHCPREQUEST that accepts an offer, sent `seconds` after the start."""
    options = (
        (_MESSAGE_TYPE, bytes([REQUEST])),
        (_REQUESTED_ADDRESS, ipv4.pack_address(offer.address)),
        (_SERVER_ID, ipv4.pack_address(offer.server)),
    )
    return _encode(client, seconds, options)


def _encode(client: DhcpClient, seconds: int, options: tuple[tuple[int, bytes], ...]) -> bytes:
    fields = bytes((_BOOTREQUEST, _ETHERNET, len(client.mac), 0))
    fields += client.xid.to_bytes(4, "big") + min(seconds, 0xFFFF).to_bytes(2, "big")
    fields += bytes(18) + client.mac.ljust(16, b"\0") + bytes(192)
    options += (
        (_CLIENT_ID, client.client_id),
        (_HOSTNAME, client.hostname.encode()),
        (_MAX_MESSAGE_SIZE, (1500).to_bytes(2, "big")),
        (_PARAMETER_LIST, bytes(_REQUESTED_OPTIONS)),
    )
    encoded = b"".join(bytes((code, len(value))) + value for code, value in options if value)
    return (fields + _COOKIE + encoded + bytes([_END])).ljust(_MIN_MESSAGE, b"\0")


def parse_reply(message: bytes, client: DhcpClient) -> DhcpReply | None:
    """Return a server's reply to `client`; None when `message` is not one."""
    if len(message) < _OPTIONS_OFFSET or message[0] != _BOOTREPLY or message[236:240] != _COOKIE:
        return None
    mac = message[28 : 28 + len(client.mac)]
    if int.from_bytes(message[4:8], "big") != client.xid or mac != client.mac:
        return None
    try:
        return _build_reply(ipv4.format_address(message[16:20]), _parse_options(message))
    except (IndexError, ValueError):  # an option is cut off or has an invalid value
        return None


def _build_reply(address: str, options: dict[int, bytes]) -> DhcpReply | None:
    message_type = options.get(_MESSAGE_TYPE, b"\0")[0]
    servers = _get_addresses(options, _SERVER_ID)
    if message_type not in (OFFER, ACK, NAK) or not servers:
        return None
    if message_type == NAK:
        return DhcpReply(message_type, servers[0])
    if not ipv4.is_host(address):
        return None
    return DhcpReply(
        message_type=message_type,
        server=servers[0],
        address=address,
        prefix=_get_prefix(options, address),
        gateway=next(iter(_get_addresses(options, _ROUTER)), ""),
        dns=_get_addresses(options, _DNS),
        hostname=_get_name(options, _HOSTNAME),
        domain=_get_name(options, _DOMAIN),
        mtu=_get_mtu(options),
        lease_time=int.from_bytes(options.get(_LEASE_TIME, b""), "big"),
    )


def _parse_options(message: bytes) -> dict[int, bytes]:
    """Return the options by code, those in the fields `file` and `sname` included."""
    options: dict[int, bytes] = {}
    _add_options(message[_OPTIONS_OFFSET:], options)
    overload = options.get(_OVERLOAD, b"\0")[0]
    if overload & 1:
        _add_options(message[_FILE], options)
    if overload & 2:
        _add_options(message[_SNAME], options)
    return options


def _add_options(data: bytes, options: dict[int, bytes]) -> None:
    """Add the options in `data`; the parts of one option are joined (RFC 3396)."""
    offset = 0
    while offset < len(data) and data[offset] != _END:
        if data[offset] == _PAD:
            offset += 1
            continue
        code, size = data[offset], data[offset + 1]
        value = data[offset + 2 : offset + 2 + size]
        if len(value) < size:
            raise ValueError(f"option {code} is cut off")
        options[code] = options.get(code, b"") + value
        offset += 2 + size


def _get_addresses(options: dict[int, bytes], code: int) -> tuple[str, ...]:
    """Return the addresses in an option, without those that no host can have."""
    value = options.get(code, b"")
    addresses = (ipv4.format_address(value[i : i + 4]) for i in range(0, len(value) - 3, 4))
    return tuple(address for address in addresses if ipv4.is_host(address))


def _get_prefix(options: dict[int, bytes], address: str) -> int:
    mask = options.get(_NETMASK, b"")
    if len(mask) != 4:
        return ipv4.class_prefix(address)
    return ipv4.mask_prefix(int.from_bytes(mask, "big"))


def _get_name(options: dict[int, bytes], code: int) -> str:
    """Return a name that is safe to write to resolv.conf; empty for any other."""
    text = options.get(code, b"").rstrip(b"\0").decode("ascii", "replace")
    return text if text and is_name(text) else ""


def _get_mtu(options: dict[int, bytes]) -> int:
    """Return the MTU in bytes; 0 when the option is missing or its value is impossible."""
    mtu = int.from_bytes(options.get(_MTU, b""), "big")
    return mtu if _MIN_MTU <= mtu <= 0xFFFF else 0


def encapsulate(payload: bytes) -> bytes:
    """Return an IP packet with `payload`, from 0.0.0.0 to the DHCP servers on the link."""
    length = 8 + len(payload)
    udp = _encode_uint16(CLIENT_PORT, SERVER_PORT, length)
    pseudo = _UNSPECIFIED + _BROADCAST + bytes((0, _UDP)) + _encode_uint16(length)
    udp += _encode_uint16(checksum(pseudo + udp + payload) or 0xFFFF) + payload
    header = bytes((0x45, 0)) + _encode_uint16(20 + length, 0, 0) + bytes((_TTL, _UDP))
    header_checksum = _encode_uint16(checksum(header + _UNSPECIFIED + _BROADCAST))
    return header + header_checksum + _UNSPECIFIED + _BROADCAST + udp


def decapsulate(packet: bytes) -> bytes | None:
    """Return the payload of an IP packet from a DHCP server; None for any other packet.

    Checksums are not verified: between virtual machines of one host they are often not filled in.
    """
    if len(packet) < 20 or packet[0] >> 4 != 4 or packet[9] != _UDP:
        return None
    header_length = (packet[0] & 15) * 4
    total = min(int.from_bytes(packet[2:4], "big"), len(packet))
    udp = packet[header_length:total]
    if header_length < 20 or len(udp) < 8:
        return None
    if int.from_bytes(packet[6:8], "big") & _FRAGMENT_MASK:
        return None
    if udp[:4] != _encode_uint16(SERVER_PORT, CLIENT_PORT):
        return None
    return udp[8 : int.from_bytes(udp[4:6], "big")]


def checksum(data: bytes) -> int:
    """Return the Internet checksum of `data` (RFC 1071)."""
    if len(data) % 2:
        data += b"\0"
    total = sum(int.from_bytes(data[i : i + 2], "big") for i in range(0, len(data), 2))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def _encode_uint16(*values: int) -> bytes:
    return b"".join(value.to_bytes(2, "big") for value in values)
