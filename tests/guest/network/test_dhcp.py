"""Obtaining a lease from DHCP servers that answer, answer late or wrongly, or do not answer."""

from collections.abc import Callable

import pytest

from initrd.guest.network.dhcp import DhcpExchange, NoLeaseError
from initrd.guest.network.dhcp_packets import DhcpClient, DhcpReply, decapsulate
from tests.fake_kernel import FakeKernel
from tests.guest.network.dhcp_server import ACK, NAK, OFFER, datagram, options_of, reply

MACS = {"eth0": b"\x52\x54\0\0\0\0", "eth1": b"\x52\x54\0\0\0\1"}
DISCOVER, REQUEST = 1, 3
# Returns the message types of the replies to a message. Arguments: the interface, the message's
# type, and the number of messages of this type that the interface sent before.
Script = Callable[[str, int, int], list[int]]
# The same for messages of one type on any interface.
Replies = Callable[[int], list[int]]


class FakePacketSocket:
    """A network whose servers follow a script. Time passes only while no packet arrives."""

    def __init__(self, kernel: FakeKernel, script: Script) -> None:
        self.kernel, self.script = kernel, script
        self.sent: list[tuple[float, str, int]] = []  # time, interface, message type
        self.incoming: list[tuple[str, bytes]] = []

    def send(self, device: str, packet: bytes) -> None:
        ports_swapped = packet[:20] + packet[22:24] + packet[20:22] + packet[24:]
        message = decapsulate(ports_swapped)
        assert message is not None
        message_type = options_of(message)[53][0]
        before = sum(entry[1:] == (device, message_type) for entry in self.sent)
        self.sent.append((self.kernel.clock, device, message_type))
        xid = int.from_bytes(message[4:8], "big")
        for reply_type in self.script(device, message_type, before):
            self.incoming.append((device, datagram(reply(xid, message[28:34], reply_type))))

    def receive(self, seconds: float) -> tuple[str, bytes] | None:
        if self.incoming:
            return self.incoming.pop(0)
        self.kernel.sleep(seconds)
        return None

    def sent_messages(self) -> list[tuple[str, int]]:
        """Return the interface and the type of each message."""
        return [entry[1:] for entry in self.sent]

    def sent_types(self) -> list[int]:
        return [message_type for _, _, message_type in self.sent]


def start_exchange(
    script: Script, devices: tuple[str, ...] = ("eth0",), seconds: float = 10
) -> tuple[FakePacketSocket, DhcpExchange]:
    kernel = FakeKernel()
    kernel.clock = 100.0
    packet_socket = FakePacketSocket(kernel, script)
    clients = {device: DhcpClient(MACS[device], 7) for device in devices}
    return packet_socket, DhcpExchange(clients, packet_socket, 100.0 + seconds, kernel)


def server(
    discover: Replies = lambda _: [OFFER], request: Replies = lambda _: [ACK], device: str = ""
) -> Script:
    """Return the script of a server with these replies, on one interface or on all."""

    def script(received_on: str, message_type: int, before: int) -> list[int]:
        if device not in ("", received_on):
            return []
        return discover(before) if message_type == DISCOVER else request(before)

    return script


def no_server(device: str, message_type: int, before: int) -> list[int]:
    return []


def test_offer_is_requested_and_acknowledged() -> None:
    packet_socket, exchange = start_exchange(server())
    assert exchange.acquire() == ("eth0", DhcpReply(ACK, "10.9.0.1", "10.9.0.50", 8))
    assert packet_socket.sent_messages() == [("eth0", DISCOVER), ("eth0", REQUEST)]
    assert packet_socket.kernel.clock == 100.0


def test_lost_discover_is_repeated_with_growing_pauses() -> None:
    packet_socket, exchange = start_exchange(
        server(discover=lambda before: [OFFER] if before == 3 else [])
    )
    exchange.acquire()
    times = [time for time, _, message_type in packet_socket.sent if message_type == DISCOVER]
    assert times == [100.0, 100.5, 101.5, 103.5]


def test_request_is_repeated_after_a_lost_acknowledgement() -> None:
    packet_socket, exchange = start_exchange(server(request=lambda before: [ACK] * before))
    assert exchange.acquire()[0] == "eth0"
    assert packet_socket.sent_messages() == [
        ("eth0", DISCOVER),
        ("eth0", REQUEST),
        ("eth0", REQUEST),
    ]


def test_offer_is_abandoned_after_three_unanswered_requests() -> None:
    packet_socket, exchange = start_exchange(
        server(request=lambda before: [ACK] if before == 3 else [])
    )
    exchange.acquire()
    assert packet_socket.sent_types() == [DISCOVER, *[REQUEST] * 3, DISCOVER, REQUEST]


def test_refused_request_is_followed_by_a_discover_after_a_pause() -> None:
    packet_socket, exchange = start_exchange(
        server(request=lambda before: [ACK] if before else [NAK])
    )
    exchange.acquire()
    assert packet_socket.sent_types() == [DISCOVER, REQUEST, DISCOVER, REQUEST]
    assert packet_socket.kernel.clock == 100.5


def test_all_interfaces_send_discover_and_the_first_offer_is_taken() -> None:
    packet_socket, exchange = start_exchange(server(device="eth1"), devices=("eth0", "eth1"))
    assert exchange.acquire()[0] == "eth1"
    assert packet_socket.sent_messages() == [
        ("eth0", DISCOVER),
        ("eth1", DISCOVER),
        ("eth1", REQUEST),
    ]


def test_replies_of_unexpected_type_and_foreign_packets_are_ignored() -> None:
    packet_socket, exchange = start_exchange(
        server(discover=lambda _: [ACK, NAK, OFFER], request=lambda _: [OFFER, OFFER, ACK])
    )
    packet_socket.incoming += [
        ("eth0", b""),
        ("eth0", datagram(b"x")),
        ("eth9", datagram(reply(7, b"", OFFER))),
    ]
    assert exchange.acquire()[1].message_type == ACK


FAILING_SERVERS: dict[str, tuple[Script, str]] = {
    "no server": (no_server, "no DHCP server answered"),
    "offers only": (
        server(request=lambda _: []),
        "10.9.0.1 offered 10.9.0.50 and then did not answer",
    ),
    "refusals only": (
        server(request=lambda _: [NAK]),
        "10.9.0.1 offered 10.9.0.50 and then refused it",
    ),
}


@pytest.mark.parametrize("case", FAILING_SERVERS)
def test_failed_exchange_ends_at_the_deadline_and_reports_the_last_stage(case: str) -> None:
    script, message = FAILING_SERVERS[case]
    packet_socket, exchange = start_exchange(script, seconds=10)
    with pytest.raises(NoLeaseError, match=message):
        exchange.acquire()
    assert 110.0 <= packet_socket.kernel.clock <= 113.5  # requests for a last offer are completed
    assert len(packet_socket.sent) < 60


def test_offer_is_taken_even_after_the_deadline() -> None:
    exchange = start_exchange(server(), seconds=-1)[1]
    assert exchange.acquire()[0] == "eth0"


def test_flood_of_packets_does_not_extend_the_deadline() -> None:
    packet_socket, exchange = start_exchange(no_server, seconds=10)

    def receive_flood(_: float) -> tuple[str, bytes]:
        packet_socket.kernel.sleep(50e-6)
        assert packet_socket.kernel.clock < 111.0
        return "eth0", bytes(60)

    packet_socket.receive = receive_flood  # type: ignore[method-assign]
    with pytest.raises(NoLeaseError):
        exchange.acquire()


def test_discover_is_sent_once_even_after_the_deadline() -> None:
    packet_socket, exchange = start_exchange(no_server, seconds=-1)
    with pytest.raises(NoLeaseError, match="no DHCP server answered"):
        exchange.acquire()
    assert packet_socket.sent_messages() == [("eth0", DISCOVER)]
