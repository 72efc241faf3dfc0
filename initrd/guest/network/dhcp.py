"""Obtain an IPv4 lease by DHCP. Messages are repeated until a deadline, the first offer is taken.

When the user names no interface, DHCPDISCOVER is sent on several interfaces, and the interface
that receives the first offer is used, as with the kernel's own `ip=dhcp`. Source: RFC 2131,
section 4.4.
"""

from initrd.guest.network.dhcp_packets import (
    ACK,
    NAK,
    OFFER,
    DhcpClient,
    DhcpReply,
    decapsulate,
    encapsulate,
    encode_discover,
    encode_request,
    parse_reply,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Protocol

    class Clock(Protocol):
        """The methods of `Kernel` that this module calls. Times are in seconds."""

        def monotonic(self) -> float: ...  # noqa: D102
        def sleep(self, seconds: float) -> None: ...  # noqa: D102

    class PacketSocket(Protocol):
        """The methods of `netlink.PacketSocket` that this module calls."""

        def send(self, device: str, packet: bytes) -> None: ...  # noqa: D102
        def receive(self, seconds: float) -> "tuple[str, bytes] | None": ...  # noqa: D102


# RFC 2131 begins with 4 s, for networks of 1997. A virtual switch answers within a millisecond,
# and may lose the first message while it learns the client's MAC address.
_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 8.0  # seconds
_MAX_LATE_PACKETS = 1000  # read after the time is over: a flood of packets never ends
_MAX_REQUESTS = 3  # without an answer, before an offer is abandoned


class NoLeaseError(Exception):
    """No lease was obtained before the deadline. The text describes the last stage reached."""


class DhcpExchange:
    """One attempt to obtain a lease until `deadline`, in seconds of `clock`.

    The host may suspend a virtual machine beyond the deadline. Therefore at least one DHCPDISCOVER
    is sent, the packets received meanwhile are read before the attempt fails, and an offer is
    accepted after the deadline too.
    """

    def __init__(
        self,
        clients: dict[str, DhcpClient],  # by the name of the interface
        packet_socket: "PacketSocket",
        deadline: float,
        clock: "Clock",
    ) -> None:
        self._clients, self._socket, self._clock = clients, packet_socket, clock
        self._start = clock.monotonic()
        self._deadline = deadline
        self._failure = "no DHCP server answered"

    def acquire(self) -> tuple[str, DhcpReply]:
        """Return an interface and its lease. Raises NoLeaseError, OSError."""
        while True:
            offered = self._find_offer()
            lease = offered and self._request_lease(*offered)
            if offered and lease:
                return offered[0], lease
            if not self._remaining():
                raise NoLeaseError(self._failure)

    def _find_offer(self) -> tuple[str, DhcpReply] | None:
        """Send DHCPDISCOVER on all interfaces until an offer arrives; None at the deadline."""
        pause = _FIRST_PAUSE
        while True:
            for device, client in self._clients.items():
                discover = encode_discover(client, self._elapsed())
                self._socket.send(device, encapsulate(discover))
            offered = self._receive_reply((OFFER,), min(pause, self._remaining()))
            if offered or not self._remaining():
                return offered
            pause = min(pause * 2, _LONGEST_PAUSE)

    def _request_lease(self, device: str, offer: DhcpReply) -> DhcpReply | None:
        """Request the offered lease; None when the server refuses or does not answer."""
        pause, client = _FIRST_PAUSE, self._clients[device]
        self._failure = f"{offer.server} offered {offer.address} and then did not answer"
        for _ in range(_MAX_REQUESTS):
            request = encode_request(client, offer, self._elapsed())
            self._socket.send(device, encapsulate(request))
            answered = self._receive_reply((ACK, NAK), pause)
            if answered and answered[1].message_type == ACK:
                return answered[1]
            if answered:
                self._failure = f"{offer.server} offered {offer.address} and then refused it"
                self._clock.sleep(min(pause, self._remaining()))  # avoids a flood of requests
                return None
            pause *= 2
        return None

    def _receive_reply(
        self, message_types: tuple[int, ...], seconds: float
    ) -> tuple[str, DhcpReply] | None:
        """Wait for a reply of one of these types and ignore all other packets."""
        until, late = self._clock.monotonic() + seconds, 0
        while True:
            remaining = max(until - self._clock.monotonic(), 0)
            late += not remaining
            received = self._socket.receive(remaining)
            reply = received and self._parse_packet(*received)
            if received and reply and reply.message_type in message_types:
                return received[0], reply
            if not remaining and (not received or late > _MAX_LATE_PACKETS):
                return None

    def _parse_packet(self, device: str, packet: bytes) -> DhcpReply | None:
        client, message = self._clients.get(device), decapsulate(packet)
        return parse_reply(message, client) if client and message else None

    def _remaining(self) -> float:
        """Return the seconds until the deadline; 0 after it."""
        return max(self._deadline - self._clock.monotonic(), 0)

    def _elapsed(self) -> int:
        """Return the whole seconds since the start, for the field `secs` of a message."""
        return int(self._clock.monotonic() - self._start)
