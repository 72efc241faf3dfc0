"""DHCP messages, to bytes and back; and everything that is no answer to us."""

import socket

import pytest

from initrd.guest.network.dhcp_packets import (
    DhcpClient,
    DhcpReply,
    checksum,
    discover,
    parse_reply,
    request,
    unwrap,
    wrap,
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


def answer(kind: int = ACK, options: bytes = b"", **changes: object) -> DhcpReply | None:
    fields = {"sname": b"", "file": b"", "address": "10.9.0.50", **changes}
    return parse_reply(reply(CLIENT.xid, MAC, kind, options=options, **fields), CLIENT)  # type: ignore[arg-type]


def test_a_discover_says_who_asks_and_what_for() -> None:
    message = discover(CLIENT, 3)
    assert message[:12] == bytes.fromhex("01010600 12345678 0003 0000")
    assert message[12:28] == bytes(16)
    assert message[28:44] == MAC + bytes(10)
    assert len(message) >= 300
    options = options_of(message)
    assert options == {53: b"\x01", 57: b"\x05\xdc", 55: bytes((1, 3, 6, 12, 15, 26))}


def test_a_request_names_what_was_offered_and_by_whom() -> None:
    client = DhcpClient(MAC, 1, "vm", b"\x01id")
    offer = DhcpReply(OFFER, "10.9.0.1", "10.9.0.50")
    options = options_of(request(client, offer, 0))
    assert options[53] == b"\x03"
    assert options[50] == socket.inet_aton("10.9.0.50")
    assert options[54] == socket.inet_aton("10.9.0.1")
    assert (options[12], options[61]) == (b"vm", b"\x01id")


def test_a_very_long_wait_still_fits_the_field() -> None:
    assert discover(CLIENT, 100_000)[8:10] == b"\xff\xff"


def test_an_answer_is_read() -> None:
    options = NETMASK + addresses(3, "10.9.0.1", "10.9.0.2") + addresses(6, "1.1.1.1", "8.8.8.8")
    options += option(12, b"vm\0") + option(15, b"example.org") + option(26, b"\x05\x78")
    options += option(51, b"\0\0\x0e\x10")
    assert answer(ACK, options) == DhcpReply(
        kind=ACK,
        server=SERVER,
        address="10.9.0.50",
        prefix=24,
        gateway="10.9.0.1",
        dns=("1.1.1.1", "8.8.8.8"),
        hostname="vm",
        domain="example.org",
        mtu=1400,
        lease=3600,
    )


def test_an_answer_may_say_nothing_but_the_address() -> None:
    assert answer(OFFER) == DhcpReply(OFFER, SERVER, "10.9.0.50", 8)


def test_a_refusal_needs_no_address() -> None:
    assert answer(NAK, address="0.0.0.0") == DhcpReply(NAK, SERVER)


def test_an_option_may_come_in_parts() -> None:
    read = answer(ACK, option(15, b"exam") + b"\0\0" + option(15, b"ple"))
    assert read is not None
    assert read.domain == "example"


def test_options_may_continue_in_the_fields_for_names() -> None:
    fields = {"file": option(15, b"file") + b"\xff", "sname": NETMASK + b"\xff"}
    read = answer(ACK, option(52, b"\x03"), **fields)
    assert read is not None
    assert (read.domain, read.prefix) == ("file", 24)


@pytest.mark.parametrize("name", [b"a b", b"a\nnameserver 6.6.6.6", b"\xff", b"..", b"", b"\0"])
def test_a_name_that_must_not_be_written_to_a_file_is_dropped(name: bytes) -> None:
    read = answer(ACK, option(15, name) + option(12, name))
    assert read is not None
    assert (read.domain, read.hostname) == ("", "")


@pytest.mark.parametrize("mtu", [b"", b"\0\x44", b"\0", b"\xff\xff\xff"], ids=bytes.hex)
def test_a_size_that_cannot_be_is_dropped(mtu: bytes) -> None:
    read = answer(ACK, option(26, mtu))
    assert read is not None
    assert read.mtu == 0


GOOD = reply(CLIENT.xid, MAC, ACK)
NOT_FOR_US = {
    "empty": b"",
    "cut off in the fields": GOOD[:200],
    "cut off before the cookie's end": GOOD[:239],
    "no options": GOOD[:240],
    "a client's message": b"\x01" + GOOD[1:],
    "another cookie": GOOD[:236] + b"abcd" + GOOD[240:],
    "another transaction": reply(1, MAC, ACK),
    "another machine": reply(CLIENT.xid, MAC[::-1], ACK),
    "no server": reply(CLIENT.xid, MAC, ACK, server=""),
    "a kind for servers": reply(CLIENT.xid, MAC, 3),
    "no address": reply(CLIENT.xid, MAC, ACK, "0.0.0.0"),
    "multicast": reply(CLIENT.xid, MAC, ACK, "224.0.0.1"),
    "a netmask with gaps": reply(CLIENT.xid, MAC, ACK, options=addresses(1, "255.0.255.0")),
    "an option cut off": GOOD[:-1] + b"\x06\x08\x01",
    "an option without length": GOOD[:-1] + b"\x06",
    "an empty kind": GOOD[:240] + b"\x35\x00" + GOOD[243:],
}


@pytest.mark.parametrize("case", NOT_FOR_US)
def test_what_is_no_answer_to_us(case: str) -> None:
    assert parse_reply(NOT_FOR_US[case], CLIENT) is None


def test_no_cut_off_answer_upsets_the_parser() -> None:
    whole = reply(CLIENT.xid, MAC, ACK, options=NETMASK + addresses(6, "1.1.1.1"))
    read = [parse_reply(whole[:size], CLIENT) for size in range(len(whole))]
    assert all(answer is None or answer.address == "10.9.0.50" for answer in read)


def test_a_packet_goes_from_nobody_to_everybody_with_checksums_that_hold() -> None:
    packet = wrap(b"hello")
    assert packet[12:20] == bytes(4) + b"\xff" * 4
    assert packet[20:24] == bytes((0, 68, 0, 67))
    assert checksum(packet[:20]) == 0
    pseudo = packet[12:20] + b"\0\x11" + packet[24:26]
    assert checksum(pseudo + packet[20:]) == 0
    assert packet[28:] == b"hello"


def test_a_checksum_as_in_the_rfc() -> None:
    # The example of RFC 1071, section 3.
    assert checksum(bytes.fromhex("0001f203f4f5f6f7")) == 0xFFFF ^ 0xDDF2


def test_what_comes_for_us_is_unwrapped() -> None:
    assert unwrap(datagram(b"hello")) == b"hello"


def test_padding_of_short_frames_is_left_out() -> None:
    assert unwrap(datagram(b"hello") + bytes(13)) == b"hello"


PACKET = datagram(b"hello")
OTHERS = {
    "empty": b"",
    "cut off in the header": PACKET[:19],
    "cut off in the ports": PACKET[:25],
    "IPv6": b"\x65" + PACKET[1:],
    "TCP": PACKET[:9] + b"\x06" + PACKET[10:],
    "a header that is too short": b"\x44" + PACKET[1:],
    "a header longer than all": b"\x4f" + PACKET[1:],
    "a first fragment": PACKET[:6] + b"\x20\x00" + PACKET[8:],
    "a later fragment": PACKET[:6] + b"\x00\x10" + PACKET[8:],
    "another port": datagram(b"hello", to=69),
    "not from a server": datagram(b"hello", source=68),
}


@pytest.mark.parametrize("case", OTHERS)
def test_packets_for_others_are_left_alone(case: str) -> None:
    assert unwrap(OTHERS[case]) is None
