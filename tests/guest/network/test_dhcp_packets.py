"""Encoding and parsing DHCP messages, and rejecting packets for other clients."""

import socket

import pytest

from initrd.guest.network.dhcp_packets import (
    DhcpClient,
    DhcpReply,
    checksum,
    decapsulate,
    encapsulate,
    encode_discover,
    encode_request,
    parse_reply,
)
from tests.guest.network.dhcp_server import (
    ACK,
    NAK,
    OFFER,
    SERVER,
    addresses,
    datagram,
    option,
    options_of,
    reply,
)

MAC = bytes.fromhex("525400123456")
CLIENT = DhcpClient(MAC, 0x12345678)
NETMASK = addresses(1, "255.255.255.0")


def parse_reply_with(
    message_type: int = ACK, options: bytes = b"", **changes: object
) -> DhcpReply | None:
    fields = {"sname": b"", "file": b"", "address": "10.9.0.50", **changes}
    return parse_reply(reply(CLIENT.xid, MAC, message_type, options=options, **fields), CLIENT)  # type: ignore[arg-type]


def test_discover_holds_the_client_address_and_the_requested_options() -> None:
    message = encode_discover(CLIENT, 3)
    assert message[:12] == bytes.fromhex("01010600 12345678 0003 0000")
    assert message[12:28] == bytes(16)
    assert message[28:44] == MAC + bytes(10)
    assert len(message) >= 300
    options = options_of(message)
    assert options == {53: b"\x01", 57: b"\x05\xdc", 55: bytes((1, 3, 6, 12, 15, 26))}


def test_request_holds_the_offered_address_and_the_server() -> None:
    client = DhcpClient(MAC, 1, "vm", b"\x01id")
    offer = DhcpReply(OFFER, "10.9.0.1", "10.9.0.50")
    options = options_of(encode_request(client, offer, 0))
    assert options[53] == b"\x03"
    assert options[50] == socket.inet_aton("10.9.0.50")
    assert options[54] == socket.inet_aton("10.9.0.1")
    assert (options[12], options[61]) == (b"vm", b"\x01id")


def test_elapsed_seconds_are_limited_to_the_16_bits_of_their_field() -> None:
    assert encode_discover(CLIENT, 100_000)[8:10] == b"\xff\xff"


def test_reply_with_all_options_is_parsed() -> None:
    options = NETMASK + addresses(3, "10.9.0.1", "10.9.0.2") + addresses(6, "1.1.1.1", "8.8.8.8")
    options += option(12, b"vm\0") + option(15, b"example.org") + option(26, b"\x05\x78")
    options += option(51, b"\0\0\x0e\x10")
    assert parse_reply_with(ACK, options) == DhcpReply(
        message_type=ACK,
        server=SERVER,
        address="10.9.0.50",
        prefix=24,
        gateway="10.9.0.1",
        dns=("1.1.1.1", "8.8.8.8"),
        hostname="vm",
        domain="example.org",
        mtu=1400,
        lease_time=3600,
    )


def test_reply_may_hold_only_an_address() -> None:
    assert parse_reply_with(OFFER) == DhcpReply(OFFER, SERVER, "10.9.0.50", 8)


def test_nak_needs_no_address() -> None:
    assert parse_reply_with(NAK, address="0.0.0.0") == DhcpReply(NAK, SERVER)


def test_option_in_several_parts_is_joined() -> None:
    parsed = parse_reply_with(ACK, option(15, b"exam") + b"\0\0" + option(15, b"ple"))
    assert parsed is not None
    assert parsed.domain == "example"


def test_options_may_continue_in_the_fields_file_and_sname() -> None:
    fields = {"file": option(15, b"file") + b"\xff", "sname": NETMASK + b"\xff"}
    parsed = parse_reply_with(ACK, option(52, b"\x03"), **fields)
    assert parsed is not None
    assert (parsed.domain, parsed.prefix) == ("file", 24)


@pytest.mark.parametrize("name", [b"a b", b"a\nnameserver 6.6.6.6", b"\xff", b"..", b"", b"\0"])
def test_name_that_is_unsafe_in_resolv_conf_is_ignored(name: bytes) -> None:
    parsed = parse_reply_with(ACK, option(15, name) + option(12, name))
    assert parsed is not None
    assert (parsed.domain, parsed.hostname) == ("", "")


@pytest.mark.parametrize("mtu", [b"", b"\0\x44", b"\0", b"\xff\xff\xff"], ids=bytes.hex)
def test_impossible_mtu_is_ignored(mtu: bytes) -> None:
    parsed = parse_reply_with(ACK, option(26, mtu))
    assert parsed is not None
    assert parsed.mtu == 0


VALID_REPLY = reply(CLIENT.xid, MAC, ACK)
INVALID_REPLIES = {
    "empty": b"",
    "cut off in the fields": VALID_REPLY[:200],
    "cut off before the cookie's end": VALID_REPLY[:239],
    "no options": VALID_REPLY[:240],
    "a client's message": b"\x01" + VALID_REPLY[1:],
    "another cookie": VALID_REPLY[:236] + b"abcd" + VALID_REPLY[240:],
    "another transaction": reply(1, MAC, ACK),
    "another client": reply(CLIENT.xid, MAC[::-1], ACK),
    "no server": reply(CLIENT.xid, MAC, ACK, server=""),
    "a message type for servers": reply(CLIENT.xid, MAC, 3),
    "no address": reply(CLIENT.xid, MAC, ACK, "0.0.0.0"),
    "multicast": reply(CLIENT.xid, MAC, ACK, "224.0.0.1"),
    "a netmask with gaps": reply(CLIENT.xid, MAC, ACK, options=addresses(1, "255.0.255.0")),
    "an option cut off": VALID_REPLY[:-1] + b"\x06\x08\x01",
    "an option without length": VALID_REPLY[:-1] + b"\x06",
    "an empty message type": VALID_REPLY[:240] + b"\x35\x00" + VALID_REPLY[243:],
}


@pytest.mark.parametrize("case", INVALID_REPLIES)
def test_invalid_or_foreign_reply_is_rejected(case: str) -> None:
    assert parse_reply(INVALID_REPLIES[case], CLIENT) is None


def test_truncated_reply_raises_no_exception() -> None:
    whole = reply(CLIENT.xid, MAC, ACK, options=NETMASK + addresses(6, "1.1.1.1"))
    parsed = [parse_reply(whole[:size], CLIENT) for size in range(len(whole))]
    assert all(each is None or each.address == "10.9.0.50" for each in parsed)


def test_encapsulated_packet_is_broadcast_from_0_0_0_0_with_valid_checksums() -> None:
    packet = encapsulate(b"hello")
    assert packet[12:20] == bytes(4) + b"\xff" * 4
    assert packet[20:24] == bytes((0, 68, 0, 67))
    assert checksum(packet[:20]) == 0
    pseudo = packet[12:20] + b"\0\x11" + packet[24:26]
    assert checksum(pseudo + packet[20:]) == 0
    assert packet[28:] == b"hello"


def test_checksum_equals_the_example_of_rfc_1071() -> None:
    # RFC 1071, section 3.
    assert checksum(bytes.fromhex("0001f203f4f5f6f7")) == 0xFFFF ^ 0xDDF2


def test_datagram_for_the_client_is_decapsulated() -> None:
    assert decapsulate(datagram(b"hello")) == b"hello"


def test_padding_of_a_short_frame_is_removed() -> None:
    assert decapsulate(datagram(b"hello") + bytes(13)) == b"hello"


PACKET = datagram(b"hello")
FOREIGN_PACKETS = {
    "empty": b"",
    "cut off in the header": PACKET[:19],
    "cut off in the ports": PACKET[:25],
    "IPv6": b"\x65" + PACKET[1:],
    "TCP": PACKET[:9] + b"\x06" + PACKET[10:],
    "a header that is too short": b"\x44" + PACKET[1:],
    "a header longer than the packet": b"\x4f" + PACKET[1:],
    "a first fragment": PACKET[:6] + b"\x20\x00" + PACKET[8:],
    "a later fragment": PACKET[:6] + b"\x00\x10" + PACKET[8:],
    "another port": datagram(b"hello", to=69),
    "not from a server": datagram(b"hello", source=68),
}


@pytest.mark.parametrize("case", FOREIGN_PACKETS)
def test_foreign_or_malformed_packet_is_rejected(case: str) -> None:
    assert decapsulate(FOREIGN_PACKETS[case]) is None
