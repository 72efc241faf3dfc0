"""What a template does, and a machine that starts from it, up to the command that it gets."""

import errno
import socket
from collections.abc import Iterator

import pytest

from initrd.command import Command
from initrd.guest.command import control, resume
from initrd.guest.command.resume import wait_for_start
from initrd.guest.failure import BootError
from initrd.template import SEED_SIZE, Start, Template, dump_start, dump_template
from tests.guest.command.template_machine import (
    DEVICES,
    DRIVERS,
    PORT,
    SEED,
    START,
    TemplateKernel,
)

MESSAGE = dump_start(START)
TIME = b"time 1700000000000000\n"
EXT4 = 0xEF53


class Host:
    """The host's end of the control port: it answers the guest's messages at once."""

    def __init__(self, kernel: TemplateKernel) -> None:
        self.port, self.guest = socket.socketpair()
        self.guest.setblocking(False)
        self.kernel, self.messages = kernel, b""
        self.answers = {b"template\n": MESSAGE, b"awake\n": TIME}
        self.seconds = 0.0  # that the exchange of `awake` and `time` takes
        self.disconnects_after = b""  # an answer
        kernel.control, kernel.on_write = self.guest.fileno(), self._answer

    def _answer(self, message: bytes) -> None:
        self.messages += self.port.recv(len(message))
        self.kernel.clock += self.seconds if message == b"awake\n" else 0
        self.port.sendall(self.answers[message])
        if self.disconnects_after == message:
            self.port.close()

    def wait(self, template: bytes = dump_template(Template(PORT))) -> Start:
        return wait_for_start(template, self.kernel.control, self.kernel)  # type: ignore[arg-type]

    def close(self) -> None:
        self.port.close()
        self.guest.close()


@pytest.fixture
def host() -> Iterator[Host]:
    host = Host(TemplateKernel("virtiofs", "virtio_net"))
    yield host
    host.close()


def assert_not_started(kernel: TemplateKernel) -> None:
    """Check that the machine runs no program, and has no devices before it asks for the time."""
    if ("write", "control", b"awake\n") not in kernel.calls:
        assert kernel.bound == []
        assert ("write_at", f"{DEVICES}/0000:01:00.0/config") not in [c[:2] for c in kernel.calls]
    assert kernel.calls_named("execute", "mount", "set_hostname") == []


def test_start_is_what_the_host_has_sent(host: Host) -> None:
    assert host.wait() == START
    assert host.messages == b"template\nawake\n"


def test_template_frees_memory_and_unplugs_devices_before_it_waits(host: Host) -> None:
    host.wait()
    calls = [call[:3] for call in host.kernel.calls if call[0] != "open_to_write"]
    unplugged = calls[: calls.index(("write", "control", b"template\n"))]
    assert unplugged == [
        ("empty", 1001),
        ("write", f"{DRIVERS}/virtiofs/unbind", b"virtio3"),
        ("write", f"{DRIVERS}/virtio_net/unbind", b"virtio4"),
        ("write_at", f"{DEVICES}/config", b"\xc3\xff"),
        ("write_at", f"{DEVICES}/config", b"\xc3\xf9"),
        ("populate_memory",),
    ]


def test_machine_gets_random_numbers_then_its_devices_then_the_time(host: Host) -> None:
    host.wait()
    calls = [call[:3] for call in host.kernel.calls]
    started = calls[calls.index(("write", "control", b"template\n")) + 1 :]
    assert started[:2] == [
        ("add_entropy", "/dev/random", SEED),
        ("write_at", f"{DEVICES}/0000:01:00.0/config", bytes(range(1, 25))),
    ]
    assert started[-2:] == [
        ("write", "control", b"awake\n"),
        ("set_realtime", 1_700_000_000_000_000),
    ]
    assert host.kernel.bound == [b"virtio3", b"virtio4"]


def test_started_machine_opens_no_file_and_leaves_none_open(host: Host) -> None:
    host.kernel.on_write = lambda message: (
        host.kernel.files.clear(),  # type: ignore[func-returns-value]
        host._answer(message),
    )
    host.wait()
    assert host.kernel.left_open == set()


@pytest.mark.parametrize(
    ("command", "size"),
    [
        pytest.param(START.command, 1, id="one byte"),
        pytest.param(START.command, 7, id="seven bytes"),
        pytest.param(Command((b"x" * 100_000, b"end" * 40_000)), 4096, id="200 kB of arguments"),
    ],
)
def test_start_and_time_may_arrive_in_pieces(
    host: Host, monkeypatch: pytest.MonkeyPatch, command: Command, size: int
) -> None:
    start = START.replace(command=command)
    host.answers[b"template\n"] = dump_start(start)
    host.kernel.on_write = lambda _message: None
    pieces = {  # every other poll(2) returns without anything to read
        message: [b for at in range(0, len(data), size) for b in (b"", data[at : at + size])]
        for message, data in host.answers.items()
    }

    def send_next(_files: list[tuple[int, int]], milliseconds: int) -> None:
        assert milliseconds == -1
        assert host.kernel.calls[-1][:2] == ("write", "control")
        host.port.sendall(pieces[host.kernel.calls[-1][2]].pop(0))

    monkeypatch.setattr(resume, "poll", send_next)
    assert host.wait() == start
    assert not any(pieces.values())
    assert host.kernel.bound == [b"virtio3", b"virtio4"]


@pytest.mark.parametrize("length", [0, 1, 20, len(MESSAGE) - 1])
def test_host_that_disconnects_before_the_end_of_the_start_is_an_error(
    host: Host, length: int
) -> None:
    host.answers[b"template\n"] = MESSAGE[:length]
    host.disconnects_after = b"template\n"
    with pytest.raises(BootError, match="the host has disconnected"):
        host.wait()
    assert host.kernel.calls[-1] == ("write", "control", b"template\n")
    assert_not_started(host.kernel)


@pytest.mark.parametrize("length", range(len(TIME)))
def test_host_that_disconnects_before_the_end_of_the_time_is_an_error(
    host: Host, length: int
) -> None:
    host.answers[b"awake\n"] = TIME[:length]
    host.disconnects_after = b"awake\n"
    with pytest.raises(BootError, match="the host has disconnected"):
        host.wait()
    assert host.kernel.calls[-1] == ("write", "control", b"awake\n")
    assert_not_started(host.kernel)


@pytest.mark.parametrize(
    ("message", "why"),
    [
        pytest.param(b"bye\n\0end\0", "begins with b'bye", id="a message"),
        pytest.param(b"initrd-start 2" + MESSAGE[14:], "begins with", id="version"),
        pytest.param(MESSAGE.replace(SEED.hex().encode(), b""), "its seed", id="no seed"),
        pytest.param(MESSAGE.replace(b"0001", b"0g01"), "its seed", id="invalid seed"),
        pytest.param(dump_start(START.replace(seed=b"")), "its seed", id="empty seed"),
        pytest.param(MESSAGE.replace(b"user=eve", b"root=eve"), "unknown", id="invalid command"),
        pytest.param(MESSAGE + b"signal 10\n", "end is missing", id="a message after the start"),
        pytest.param(MESSAGE + TIME, "end is missing", id="the time at once"),
        pytest.param(MESSAGE * 2, "more than one|unknown|end", id="two starts"),
    ],
)
def test_invalid_start_is_an_error(host: Host, message: bytes, why: str) -> None:
    host.answers[b"template\n"] = message
    with pytest.raises(BootError, match=f"cannot understand what to start: .*({why})"):
        host.wait()
    assert host.kernel.calls[-1] == ("write", "control", b"template\n")
    assert_not_started(host.kernel)


@pytest.mark.parametrize(
    "answer",
    [
        *(b"\n", b"time\n", b"time \n", b"time x\n", b"time -1\n", b"time 1.5\n", b"time 1e9\n"),
        *(b"1700000000000000\n", b" time 1\n", b"time  1\n", b"time 1 \n", b"time 1\r\n", b"bye\n"),
        *(b"TIME 1\n", b"time 1 2\n", b"time 1\nsignal 10\n", b"time \xb2\n", b"time \xff\xfe\n"),
        *(b"time 999999999999999999\n", b"time 1" + b"0" * 5000 + b"\n", TIME + b"x"),
    ],
)
def test_invalid_time_is_an_error(host: Host, answer: bytes) -> None:
    host.answers[b"awake\n"] = answer
    with pytest.raises(BootError, match="cannot set the clock: the host has sent"):
        host.wait()
    assert host.kernel.calls[-1] == ("write", "control", b"awake\n")
    assert_not_started(host.kernel)


def test_latest_time_is_one_that_python_can_set() -> None:
    # Nanoseconds in 64 bits: clock_settime_ns(). A day may be added, for the age of the message.
    assert (control._MAX_TIME + 86_400_000_000) * 1000 < 1 << 63
    assert control.parse_time(["time", f"{control._MAX_TIME}"]) == control._MAX_TIME
    assert control.parse_time(["time", f"{control._MAX_TIME + 1}"]) is None


@pytest.mark.parametrize(("seconds", "added"), [(0.0, 0), (0.5, 500_000), (3.0, 3_000_000)])
def test_clock_gets_the_duration_of_the_exchange(host: Host, seconds: float, added: int) -> None:
    host.kernel.clock, host.seconds = 7.0, seconds
    host.wait()
    assert host.kernel.calls_named("set_realtime") == [
        ("set_realtime", 1_700_000_000_000_000 + added)
    ]


@pytest.mark.parametrize("number", [errno.EPERM, errno.ENOTTY, errno.EINVAL])
def test_machine_does_not_start_with_the_random_numbers_of_the_template(
    host: Host, number: int
) -> None:
    host.kernel.errors["add_entropy"] = number
    with pytest.raises(BootError, match="cannot start from a template"):
        host.wait()
    assert host.messages == b"template\n"
    assert host.kernel.calls[-1] == ("write", "control", b"template\n")
    assert_not_started(host.kernel)


def test_template_without_dev_random_is_not_made(host: Host) -> None:
    del host.kernel.files["/dev/random"]
    with pytest.raises(BootError, match="cannot start from a template: No such file"):
        host.wait()
    assert host.messages == b""


def test_machine_does_not_start_without_its_clock(host: Host) -> None:
    host.kernel.errors["set_realtime"] = errno.EINVAL
    with pytest.raises(BootError, match="cannot start from a template: Invalid argument"):
        host.wait()
    assert_not_started(host.kernel)


def test_missing_device_is_an_error(host: Host) -> None:
    host.kernel.errors["write", f"{DRIVERS}/virtiofs/bind"] = errno.ENODEV
    with pytest.raises(BootError, match="cannot start from a template: No such device"):
        host.wait()
    assert host.kernel.bound == []


def test_root_that_is_no_ram_file_system_is_not_emptied(host: Host) -> None:
    host.kernel.filesystem = EXT4
    with pytest.raises(BootError, match="nothing deleted"):
        host.wait()
    assert host.kernel.calls == []
    assert host.messages == b""
    assert host.kernel.left_open == set()


@pytest.mark.parametrize("network", [False, True])
def test_network_modules_are_imported_by_templates_with_a_network_only(
    host: Host, monkeypatch: pytest.MonkeyPatch, *, network: bool
) -> None:
    calls_before_import: list[int] = []
    monkeypatch.setattr(
        resume, "_import_network", lambda: calls_before_import.append(len(host.kernel.calls))
    )
    host.wait(dump_template(Template(PORT, network)))
    assert calls_before_import == ([0] if network else [])  # before the initramfs is freed


@pytest.mark.parametrize(
    "template", [b"", b"initrd-template 10\0slot=a\0network=0\0end\0", b"initrd-template 1\0end\0"]
)
def test_invalid_template_is_an_error_and_nothing_is_deleted(host: Host, template: bytes) -> None:
    with pytest.raises(BootError, match="cannot understand what to start: it begins with"):
        host.wait(template)
    assert host.kernel.calls == []


def necessary_calls() -> list[int]:
    """Return the indices of the calls that must succeed."""
    host = Host(TemplateKernel("virtiofs"))
    host.wait()
    host.close()
    calls = enumerate(host.kernel.calls)
    return [number for number, call in calls if call[0] != "populate_memory"]


@pytest.mark.parametrize("number", necessary_calls())
def test_any_failing_call_is_an_error(number: int) -> None:
    host = Host(TemplateKernel("virtiofs", fail_call=number))
    with pytest.raises(BootError, match="cannot start from a template: Input/output error"):
        host.wait()
    host.close()
    has_own_numbers = bool(host.kernel.calls_named("add_entropy"))
    assert has_own_numbers or (b"awake\n" not in host.messages and not host.kernel.bound)


def test_seed_fits_into_one_call_of_the_kernel() -> None:
    assert SEED_SIZE <= 512  # MAX_SEED of initrd/freeze/_syscalls.c
