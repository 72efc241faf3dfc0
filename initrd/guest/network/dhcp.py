"""Gets an address by DHCP: asks, takes the first offer, asks again when nobody answers.

On several interfaces at once where the user named none: the one that gets the first offer is it,
as in the kernel's own `ip=dhcp`. Source: RFC 2131, section 4.4.
"""

from initrd.guest.network.dhcp_packets import (
    ACK,
    NAK,
    OFFER,
    DhcpClient,
    DhcpReply,
    discover,
    parse_reply,
    request,
    unwrap,
    wrap,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Protocol

    class Clock(Protocol):
        """What of the kernel this needs."""

        def monotonic(self) -> float: ...  # noqa: D102
        def sleep(self, seconds: float) -> None: ...  # noqa: D102

    class Wire(Protocol):
        """Sends and receives IP packets without an address of its own."""

        def send(self, device: str, packet: bytes) -> None: ...  # noqa: D102
        def receive(self, seconds: float) -> "tuple[str, bytes] | None": ...  # noqa: D102


# The RFC begins at 4 s, for networks of 1997. A virtual switch answers in a millisecond, and the
# first message may be lost while it learns where we are.
_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 8.0  # seconds
_MOST_LATE = 1000  # packets that are looked at when time is up: a flood has no last one
_REQUESTS = 3  # before an offer is given up


class NoLeaseError(Exception):
    """Nobody gave an address in time. The text says how far it came."""


class DhcpExchange:
    """One attempt to get a lease, until a deadline on the clock that is handed in.

    The host may let a virtual machine wait for longer than that. So it asks at least once, reads
    what has come in the meantime before it gives up, and takes an offer however late it is.
    """

    def __init__(
        self, clients: dict[str, DhcpClient], wire: "Wire", deadline: float, clock: "Clock"
    ) -> None:
        self._clients, self._wire, self._clock = clients, wire, clock
        self._start = clock.monotonic()
        self._deadline = deadline
        self._so_far = "nobody answered"

    def acquire(self) -> tuple[str, DhcpReply]:
        """Return a device and the lease for it. Raises NoLeaseError, OSError."""
        while True:
            offered = self._find_offer()
            lease = offered and self._take(*offered)
            if offered and lease:
                return offered[0], lease
            if not self._left():
                raise NoLeaseError(self._so_far)

    def _find_offer(self) -> tuple[str, DhcpReply] | None:
        pause = _FIRST_PAUSE
        while True:
            for device, client in self._clients.items():
                self._wire.send(device, wrap(discover(client, self._elapsed())))
            offered = self._listen((OFFER,), min(pause, self._left()))
            if offered or not self._left():
                return offered
            pause = min(pause * 2, _LONGEST_PAUSE)

    def _take(self, device: str, offer: DhcpReply) -> DhcpReply | None:
        """Ask for what was offered; None when it is refused after all, or nobody answers."""
        pause, client = _FIRST_PAUSE, self._clients[device]
        self._so_far = f"{offer.server} offered {offer.address} and then did not answer"
        for _ in range(_REQUESTS):
            self._wire.send(device, wrap(request(client, offer, self._elapsed())))
            answered = self._listen((ACK, NAK), pause)
            if answered and answered[1].kind == ACK:
                return answered[1]
            if answered:
                self._so_far = f"{offer.server} offered {offer.address} and then refused it"
                self._clock.sleep(min(pause, self._left()))  # not a flood of requests
                return None
            pause *= 2
        return None

    def _listen(self, kinds: tuple[int, ...], seconds: float) -> tuple[str, DhcpReply] | None:
        """Wait for an answer of one of these kinds, letting everything else pass."""
        until, late = self._clock.monotonic() + seconds, 0
        while True:
            left = max(until - self._clock.monotonic(), 0)
            late += not left
            received = self._wire.receive(left)
            answer = received and self._read(*received)
            if received and answer and answer.kind in kinds:
                return received[0], answer
            if not left and (not received or late > _MOST_LATE):
                return None

    def _read(self, device: str, packet: bytes) -> DhcpReply | None:
        client, message = self._clients.get(device), unwrap(packet)
        return parse_reply(message, client) if client and message else None

    def _left(self) -> float:
        return max(self._deadline - self._clock.monotonic(), 0)

    def _elapsed(self) -> int:
        return int(self._clock.monotonic() - self._start)
