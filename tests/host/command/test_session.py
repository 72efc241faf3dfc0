"""Start a session: from a template where that is possible, else by a boot."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from initrd.command import Command, load
from initrd.host.command import session
from initrd.host.command.protocol import LocalStreams
from initrd.host.command.session import start_session
from initrd.host.image import lsinitramfs
from initrd.host.machine.launch import Launch, Warm
from initrd.host.machine.run import HostStreams
from initrd.host.qemu.arch import find_arch
from initrd.host.qemu.argv import Hardware, Setup
from initrd.host.system.files import OpenFile
from initrd.host.system.hosterror import HostError
from initrd.host.system.loop import Cancelled, Loop
from initrd.host.template import warm
from initrd.host.template.start import TemplateError
from initrd.host.virtiofsd.program import Virtiofsd
from initrd.options import COMMAND_FILE
from initrd.template import END, PORTS, SEED_SIZE, load_start

COMMAND = Command((b"ls", b"-l"), (b"A=b",), b"/tmp")


class FakeMachine:
    """Stands for a running machine."""

    def __init__(self, loop: Loop) -> None:
        self.loop = loop
        self.is_off = False

    def wait_for_virtiofsd(self) -> None:
        """Return at once."""


class Starter:
    """Stands for starting machines: records the launches, keeps the guest's ends of the ports."""

    def __init__(self, launch: Launch) -> None:
        self.launch = launch
        self.loop = Loop()
        self.events: list[str] = []
        self.launches: list[Launch] = []
        self.ports: dict[str, int] = {}  # a copy of QEMU's end by the name of the port
        self.image = b""
        self.notes: list[str] = []
        self.failure: dict[str, BaseException] = {}  # what an event raises
        self.streams = HostStreams(on_note=self.notes.append)

    @contextmanager
    def boot(self, launch: Launch, loop: Loop, streams: HostStreams) -> Iterator[FakeMachine]:
        descriptor = launch.setup.initrd.descriptor
        self.image = os.pread(descriptor, os.fstat(descriptor).st_size, 0)
        with self._start("boot", launch, streams):
            yield FakeMachine(loop)

    @contextmanager
    def start_warm(self, launch: Launch, loop: Loop, streams: HostStreams) -> Iterator[FakeMachine]:
        with self._start("warm", launch, streams):
            yield FakeMachine(loop)

    @contextmanager
    def _start(self, event: str, launch: Launch, streams: HostStreams) -> Iterator[None]:
        self.events.append(event)
        self.launches.append(launch)
        if event in self.failure:
            raise self.failure[event]
        assert len(streams.ports) == len(launch.setup.ports)
        named = zip(launch.setup.ports, streams.ports, strict=True)
        self.ports = {name: os.dup(number) for name, number in named if number >= 0}
        try:
            yield
        finally:
            self.events.append("end")

    @contextmanager
    def session(self) -> Iterator[session.CommandSession]:
        with start_session(self.launch, LocalStreams(), self.loop, self.streams) as started:
            yield started

    def received(self) -> bytes:
        """Return what the guest has got on the control port until now."""
        self.loop.run(lambda: False, 0)
        return os.read(self.ports["initrd.control"], 1 << 20)

    def send(self, message: bytes) -> None:
        """Send a message from the guest, and let the host handle it."""
        os.write(self.ports["initrd.control"], message)
        self.loop.run(lambda: False, 0)

    def close(self) -> None:
        for number in self.ports.values():
            os.close(number)
        self.ports.clear()


@pytest.fixture
def starter(monkeypatch: pytest.MonkeyPatch) -> Iterator[Starter]:
    before = sorted(os.listdir("/proc/self/fd"))
    image = os.memfd_create("image")
    setup = Setup(
        "qemu",
        Hardware(find_arch("x86_64"), "tcg", memory=1 << 30, cpus=1),
        OpenFile("/boot/vmlinuz"),
        OpenFile("initrd.img", image),
        cmdline="console=ttyS0 init=/bin/sh",
        ports=COMMAND.ports,
    )
    launch = Launch(
        setup,
        Virtiofsd("virtiofsd", "c"),
        "/boot/vmlinuz",
        COMMAND,
        warm=Warm("console=ttyS0", "6.1", "/nowhere", 1),
    )
    starter = Starter(launch)
    monkeypatch.setattr(session, "start_machine", starter.boot)
    monkeypatch.setattr(warm, "start_warm", starter.start_warm)
    yield starter
    starter.close()
    os.close(image)
    assert sorted(os.listdir("/proc/self/fd")) == before


def test_machine_without_warm_boots_with_the_command_in_its_image(starter: Starter) -> None:
    starter.launch = starter.launch.replace(warm=None)
    with starter.session():
        assert starter.events == ["boot"]
    entries = {entry.path: entry for entry in lsinitramfs.read_entries(starter.image)}
    assert load(entries[COMMAND_FILE.lstrip("/").encode()].data) == COMMAND
    assert starter.launches[0].setup.ports == COMMAND.ports
    assert set(starter.ports) == set(COMMAND.ports)
    assert starter.received() == b"bye\n"
    assert starter.events == ["boot", "end"]


def test_machine_from_a_template_gets_the_command_on_its_control_port(starter: Starter) -> None:
    with starter.session():
        data = starter.received()
        starter.send(b"ready\n")
    assert data.endswith(END)
    start = load_start(data)
    assert (start.command, start.cmdline) == (COMMAND, "console=ttyS0 init=/bin/sh")
    assert len(start.seed) == SEED_SIZE
    assert starter.received() == b"bye\n"
    assert starter.events == ["warm", "end"]
    assert starter.notes == []


def test_each_machine_gets_a_seed_of_its_own(starter: Starter) -> None:
    seeds = set()
    for _ in range(3):
        with starter.session():
            seeds.add(load_start(starter.received()).seed)
        starter.close()
    assert len(seeds) == 3


def test_machine_from_a_template_has_all_ports_and_uses_those_of_the_command(
    starter: Starter,
) -> None:
    with starter.session():
        assert starter.launches[0].setup.ports == PORTS
        assert set(starter.ports) == set(COMMAND.ports)


def test_command_for_a_terminal_uses_its_port(starter: Starter) -> None:
    starter.launch = starter.launch.replace(command=COMMAND.replace(tty=(0, 1, 2)))
    with starter.session():
        assert set(starter.ports) == {"initrd.control", "initrd.tty"}


@pytest.mark.parametrize(
    ("error", "note"),
    [
        (
            HostError("cannot use the directory", "its mode is 0777", "another one"),
            "cannot use the directory: its mode is 0777",
        ),
        (TemplateError("cannot start from a template", "it is too old"), "it is too old"),
    ],
)
def test_machine_that_cannot_start_warm_boots_with_a_note(
    starter: Starter, error: HostError, note: str
) -> None:
    starter.failure["warm"] = error
    with starter.session():
        assert starter.events == ["warm", "boot"]
        assert starter.launches[1].setup.ports == COMMAND.ports
    assert starter.notes == [f"booting without a template: {note}"]
    assert starter.received() == b"bye\n", "the command is in the image only"


@pytest.mark.parametrize("error", [Cancelled(), KeyboardInterrupt(), OSError(5, "EIO")])
def test_other_errors_of_a_warm_start_are_passed_on(starter: Starter, error: BaseException) -> None:
    starter.failure["warm"] = error
    with pytest.raises(type(error)) as raised, starter.session():
        pass
    assert raised.value is error
    assert starter.events == ["warm"]


def test_error_of_the_boot_after_a_failed_warm_start_is_that_of_the_boot(
    starter: Starter,
) -> None:
    warm_error = TemplateError("cannot start from a template", "it is too old")
    starter.failure = {"warm": warm_error, "boot": HostError("cannot share /srv", "it is gone")}
    with pytest.raises(HostError, match="cannot share /srv"), starter.session():
        pass


@pytest.mark.parametrize("is_warm", [True, False])
@pytest.mark.parametrize("error", [HostError("a", "b"), Cancelled(), KeyboardInterrupt()])
def test_error_inside_the_with_ends_the_machine_and_starts_no_other(
    starter: Starter, is_warm: bool, error: BaseException
) -> None:
    if not is_warm:
        starter.launch = starter.launch.replace(warm=None)
    with pytest.raises(type(error)) as raised, starter.session():
        raise error
    assert raised.value is error
    assert starter.events == ["warm" if is_warm else "boot", "end"]


@pytest.mark.parametrize("is_warm", [True, False])
def test_command_that_cannot_be_written_is_a_host_error(starter: Starter, is_warm: bool) -> None:
    starter.launch = starter.launch.replace(command=Command((b"a\0b",)))
    if not is_warm:
        starter.launch = starter.launch.replace(warm=None)
    with pytest.raises(HostError, match="cannot run the command: a NUL byte"), starter.session():
        pass
    assert starter.events == []


def test_large_command_is_sent_as_the_guest_reads_it(starter: Starter) -> None:
    command = Command((b"echo", *(b"x" * 100_000 for _ in range(20))))
    starter.launch = starter.launch.replace(command=command)
    with starter.session():
        data = b""
        while not data.endswith(END):
            data += starter.received()
    assert load_start(data).command == command


def test_ends_of_qemu_are_closed_when_it_has_them(starter: Starter) -> None:
    with starter.session() as started:
        starter.close()  # the only other ends are those that QEMU had inherited
        starter.loop.run(lambda: False, 0)
        started.guest.send("signal 15")  # no error: RunningMachine detects the end of QEMU


def test_launch_without_a_command_is_an_error_of_the_caller(starter: Starter) -> None:
    starter.launch = starter.launch.replace(command=None)
    with pytest.raises(ValueError, match="without a command"), starter.session():
        pass
