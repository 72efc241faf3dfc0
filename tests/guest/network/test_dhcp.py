"""Getting a lease: from servers that answer, late, wrongly, or not at all."""

from collections.abc import Callable

import pytest

from initrd.guest.network.dhcp import DhcpExchange, NoLeaseError
from initrd.guest.network.dhcp_packets import DhcpClient, DhcpReply, unwrap
from tests.fake_kernel import FakeKernel
from tests.guest.network.dhcp_server import ACK, NAK, OFFER, datagram, options_of, reply

MACS = {"eth0": b"\x52\x54\0\0\0\0", "eth1": b"\x52\x54\0\0\0\1"}
DISCOVER, REQUEST = 1, 3
# What a server does with the nth message of a kind: the kinds of its answers.
Script = Callable[[str, int, int], list[int]]


class FakeWire:
    """A network whose servers follow a script. Time passes only while nothing comes."""

    def __init__(self, kernel: FakeKernel, script: Script) -> None:
        self.kernel, self.script = kernel, script
        self.sent: list[tuple[float, str, int]] = []
        self.coming: list[tuple[str, bytes]] = []

    def send(self, device: str, packet: bytes) -> None:
        message = unwrap(packet[:20] + packet[22:24] + packet[20:22] + packet[24:])  # ports swapped
        assert message is not None
        kind = options_of(message)[53][0]
        before = sum(entry[1:] == (device, kind) for entry in self.sent)
        self.sent.append((self.kernel.clock, device, kind))
        xid = int.from_bytes(message[4:8], "big")
        for answer in self.script(device, kind, before):
            self.coming.append((device, datagram(reply(xid, message[28:34], answer))))

    def receive(self, seconds: float) -> tuple[str, bytes] | None:
        if self.coming:
            return self.coming.pop(0)
        self.kernel.sleep(seconds)
        return None

    def kinds(self) -> list[tuple[str, int]]:
        return [entry[1:] for entry in self.sent]


def exchange(
    script: Script, devices: tuple[str, ...] = ("eth0",), seconds: float = 10
) -> tuple[FakeWire, DhcpExchange]:
    kernel = FakeKernel()
    kernel.clock = 100.0
    wire = FakeWire(kernel, script)
    clients = {device: DhcpClient(MACS[device], 7) for device in devices}
    return wire, DhcpExchange(clients, wire, 100.0 + seconds, kernel)


def obliging(device: str, kind: int, before: int) -> list[int]:
    return [OFFER] if kind == DISCOVER else [ACK]


def test_an_offer_is_taken() -> None:
    wire, it = exchange(obliging)
    assert it.acquire() == ("eth0", DhcpReply(ACK, "10.9.0.1", "10.9.0.50", 8))
    assert wire.kinds() == [("eth0", DISCOVER), ("eth0", REQUEST)]
    assert wire.kernel.clock == 100.0


def test_a_lost_question_is_asked_again_with_longer_and_longer_pauses() -> None:
    wire, it = exchange(
        lambda _device, kind, before: (
            [OFFER] if kind == DISCOVER and before == 3 else [ACK] if kind == REQUEST else []
        )
    )
    it.acquire()
    asked = [when for when, _, kind in wire.sent if kind == DISCOVER]
    assert asked == [100.0, 100.5, 101.5, 103.5]


def test_a_lost_acknowledgement_is_asked_for_again() -> None:
    wire, it = exchange(
        lambda _device, kind, before: [OFFER] if kind == DISCOVER else [ACK] * before
    )
    assert it.acquire()[0] == "eth0"
    assert wire.kinds() == [("eth0", DISCOVER), ("eth0", REQUEST), ("eth0", REQUEST)]


def test_a_server_that_goes_away_after_its_offer_is_given_up_for_another() -> None:
    wire, it = exchange(
        lambda _device, kind, before: [OFFER] if kind == DISCOVER else [ACK] if before == 3 else []
    )
    it.acquire()
    assert [kind for _, kind in wire.kinds()] == [DISCOVER, *[REQUEST] * 3, DISCOVER, REQUEST]


def test_a_refusal_begins_again_but_not_at_once() -> None:
    wire, it = exchange(
        lambda _device, kind, before: [OFFER] if kind == DISCOVER else [ACK if before else NAK]
    )
    it.acquire()
    assert [kind for _, kind in wire.kinds()] == [DISCOVER, REQUEST, DISCOVER, REQUEST]
    assert wire.kernel.clock == 100.5


def test_all_devices_ask_and_the_first_offer_wins() -> None:
    wire, it = exchange(
        lambda device, kind, before: obliging(device, kind, before) if device == "eth1" else [],
        devices=("eth0", "eth1"),
    )
    assert it.acquire()[0] == "eth1"
    assert wire.kinds() == [("eth0", DISCOVER), ("eth1", DISCOVER), ("eth1", REQUEST)]


def test_answers_of_the_wrong_kind_or_for_others_are_passed_over() -> None:
    wire, it = exchange(
        lambda _device, kind, _before: (
            [ACK, NAK, OFFER] if kind == DISCOVER else [OFFER, OFFER, ACK]
        )
    )
    wire.coming += [
        ("eth0", b""),
        ("eth0", datagram(b"x")),
        ("eth9", datagram(reply(7, b"", OFFER))),
    ]
    assert it.acquire()[1].kind == ACK


SILENCE: dict[str, tuple[Script, str]] = {
    "nobody": (lambda *_: [], "nobody answered"),
    "offers only": (
        lambda _device, kind, _before: [OFFER] if kind == DISCOVER else [],
        "10.9.0.1 offered 10.9.0.50 and then did not answer",
    ),
    "refusals only": (
        lambda _device, kind, _before: [OFFER] if kind == DISCOVER else [NAK],
        "10.9.0.1 offered 10.9.0.50 and then refused it",
    ),
}


@pytest.mark.parametrize("case", SILENCE)
def test_without_a_lease_it_ends_at_the_deadline_and_says_how_far_it_came(case: str) -> None:
    script, message = SILENCE[case]
    wire, it = exchange(script, seconds=10)
    with pytest.raises(NoLeaseError, match=message):
        it.acquire()
    assert 110.0 <= wire.kernel.clock <= 113.5  # an offer is followed up to its end
    assert len(wire.sent) < 60


def test_a_machine_that_was_not_let_run_reads_what_has_come_meanwhile() -> None:
    it = exchange(obliging, seconds=-1)[1]
    assert it.acquire()[0] == "eth0"


def test_a_flood_does_not_move_the_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    wire, lease = exchange(lambda *_: [], seconds=10)

    def flood(_: float) -> tuple[str, bytes]:
        wire.kernel.sleep(50e-6)
        assert wire.kernel.clock < 111.0
        return "eth0", bytes(60)

    wire.receive = flood  # type: ignore[method-assign]
    with pytest.raises(NoLeaseError):
        lease.acquire()


def test_without_any_time_it_still_asks_once() -> None:
    wire, it = exchange(lambda *_: [], seconds=-1)
    with pytest.raises(NoLeaseError, match="nobody answered"):
        it.acquire()
    assert wire.kinds() == [("eth0", DISCOVER)]
