"""A boot of a template, and of a machine that starts from it, on a fake kernel."""

import os
import socket
from collections.abc import Callable, Iterator

import pytest

from initrd.options import COMMAND_FILE
from initrd.template import PORTS, Start, Template, dump_start, dump_template
from tests.fake_kernel import Call
from tests.guest.command.template_machine import PORT, START, TemplateKernel
from tests.guest.test_init import boot, mounts

CLASS = "/sys/class/virtio-ports"


class Machine:
    """A fake machine with a template in its image, and its host.

    The host answers within the guest's calls: poll(2) of the guest stops all threads of a test.
    """

    def __init__(self, start: Start = START, *, cmdline: str = "", fail_call: int = -1) -> None:
        files = {f"{CLASS}/port{at}/name": f"{name}\n" for at, name in enumerate(PORTS)}
        files["/sys/bus/virtio/drivers/virtio_console/bind"] = ""
        files[COMMAND_FILE] = os.fsdecode(dump_template(Template(PORT)))
        self.kernel = TemplateKernel(
            "virtiofs",
            cmdline=cmdline,
            files=files,
            fail_call=None if fail_call < 0 else fail_call,
        )
        self._host, self._guest = socket.socketpair()
        self._guest.setblocking(False)
        self.kernel.control = self._guest.fileno()
        self.kernel.ports = {f"/dev/port{at}": self.kernel.control for at in range(len(PORTS))}
        self._answers = {b"template\n": dump_start(start), b"awake\n": b"time 1000000\n"}
        self.kernel.on_write = lambda message: self._host.sendall(self._answers[message])
        self.kernel.on_failure = lambda: self._host.sendall(b"bye\n")
        self.messages: list[str] = []

    def boot(self) -> list[Call]:
        """Boot, and return the calls of /init."""
        try:
            return boot(self.kernel)
        finally:
            self._guest.shutdown(socket.SHUT_WR)
            self.messages = self._host.recv(1 << 16).decode().splitlines()
            self._guest.close()
            self._host.close()


@pytest.fixture(autouse=True)
def opened() -> Iterator[Callable[[], list[str]]]:
    """Close what a boot has opened. Return a function that returns the kinds of these files."""
    before = set(os.listdir("/proc/self/fd"))

    def list_opened() -> dict[str, str]:
        names = set(os.listdir("/proc/self/fd")) - before
        paths = {name: f"/proc/self/fd/{name}" for name in names}
        return {name: os.readlink(path) for name, path in paths.items() if os.path.exists(path)}

    yield lambda: sorted(map(kind_of, list_opened().values()))
    for name in list_opened():
        os.close(int(name))


def kind_of(target: str) -> str:
    """Return what a descriptor is, by its link in /proc."""
    if target.endswith("/ptmx"):
        return "master"
    return "slave" if target.startswith("/dev/pts/") else target.partition(":")[0]


def test_steps_of_a_template_and_of_a_machine_that_starts_from_it() -> None:
    machine = Machine()
    calls = [call[:2] for call in machine.boot()]
    order: list[Call] = [("open_port", f"/dev/port{at}") for at in range(len(PORTS))]
    order[1:1] = [("unlink", COMMAND_FILE), ("mount", "cgroup2"), ("interface_up", "lo")]
    order += [("empty", 1001), ("populate_memory",), ("add_entropy", "/dev/random")]
    order += [("set_realtime", 1_000_000), ("mount", "new"), ("chroot", ".")]
    order += [("set_hostname", "localhost"), ("power_off",)]
    assert [call for call in calls if call in order] == order
    assert machine.messages[:3] == ["template", "awake", "ready"]
    assert machine.messages[3].startswith("refused cannot run the command as eve")
    assert len(machine.messages) == 4


def test_initramfs_is_freed_once_and_no_descriptor_stays_open() -> None:
    machine = Machine()
    machine.boot()
    assert machine.kernel.calls_named("empty") == [("empty", 1001)]
    assert machine.kernel.left_open == set()


@pytest.mark.parametrize("cmdline", ["rootfs=new mount=b", "rootfs=new", "mount=b", "", "quiet"])
def test_command_line_of_the_start_replaces_that_of_the_template(cmdline: str) -> None:
    machine = Machine(START.replace(cmdline=cmdline), cmdline="rootfs=old mount=a rw")
    calls = machine.boot()
    sources = [source for source, _ in mounts(machine.kernel)]
    root = "new" if "new" in cmdline else "rootfs"
    assert root in sources
    assert "old" not in sources
    assert "a" not in sources
    assert ("b" in sources) == ("b" in cmdline)
    assert machine.kernel.calls_named("empty") == [("empty", 1001)]
    assert ("set_realtime", 1_000_000) in calls


def test_network_of_the_template_is_not_configured_without_ip_in_the_start() -> None:
    machine = Machine(cmdline="ip=dhcp")
    machine.boot()
    assert machine.messages[-1].startswith("refused cannot run the command as eve")
    assert "cannot find" not in machine.kernel.output


@pytest.mark.parametrize(("template", "start"), [("debug", ""), ("", "debug")])
def test_steps_are_printed_if_the_start_has_debug(template: str, start: str) -> None:
    machine = Machine(START.replace(cmdline=f"rootfs=new {start}"), cmdline=template)
    machine.boot()
    assert ("mount new (virtiofs) on /sysroot" in machine.kernel.output) == bool(start)


def test_invalid_command_line_of_the_start_is_reported_to_the_host() -> None:
    machine = Machine(START.replace(cmdline="rootfs=new mount=../x"))
    calls = machine.boot()
    assert machine.messages[:3] == ["template", "awake", "ready"]
    assert machine.messages[3].startswith(
        "failed boot failed: cannot understand the kernel command line"
    )
    assert "mount=../x" in machine.messages[3]
    assert "new" not in [source for source, _ in mounts(machine.kernel)]
    assert calls[-1] == ("power_off",)


@pytest.mark.parametrize("suffix", ["", " mount=../x"], ids=["valid", "invalid"])
def test_onfail_is_that_of_the_start(suffix: str) -> None:
    start = START.replace(cmdline=f"rootfs=new initrd.onfail=panic{suffix}")
    machine = Machine(start, cmdline="initrd.onfail=poweroff")
    assert machine.boot()[-1] == ("exit", 1)


@pytest.mark.parametrize(
    ("content", "why"),
    [
        pytest.param("initrd-template 1\0end\0", "cannot understand what to start", id="no slot"),
        pytest.param("initrd-template 12\0slot=a\0network=0\0end\0", "begins with", id="version"),
        pytest.param("initrd-template", "cannot understand the command", id="cut"),
    ],
)
def test_invalid_template_is_reported_as_a_failure(content: str, why: str) -> None:
    machine = Machine()
    machine.kernel.files[COMMAND_FILE] = content
    calls = machine.boot()
    assert len(machine.messages) == 1
    assert machine.messages[0].startswith("failed boot failed: cannot understand")
    assert why in machine.messages[0]
    assert machine.kernel.calls_named("empty", "execute") == []
    assert calls[-1] == ("power_off",)


def test_template_without_the_port_of_the_terminal_is_reported_as_a_failure() -> None:
    machine = Machine()
    del machine.kernel.files[f"{CLASS}/port{PORTS.index('initrd.tty')}/name"]
    machine.boot()
    assert "cannot find port initrd.tty" in machine.messages[0]


def count_calls_of_a_boot() -> int:
    return len(Machine().boot()) - 1  # without the power-off


@pytest.mark.parametrize("number", range(count_calls_of_a_boot()))
def test_boot_reports_any_failed_call_and_powers_off(number: int) -> None:
    machine = Machine(fail_call=number)
    calls = machine.boot()
    assert calls[-1] == ("power_off",)
    assert machine.kernel.calls_named("execute") == []
    if machine.messages:
        assert machine.messages[-1].startswith(("failed boot failed: ", "refused cannot run the"))
    else:
        assert "boot failed: " in machine.kernel.output
    if machine.kernel.bound:
        assert ("add_entropy", "/dev/random", START.seed) in calls


@pytest.mark.parametrize(
    ("tty", "kinds"),
    [
        pytest.param((), ["pipe"] * 6, id="no terminal"),
        pytest.param((0, 1, 2), ["master", "slave"], id="all on the terminal"),
        pytest.param((0, 1), ["master", "pipe", "pipe", "slave"], id="separate standard error"),
        pytest.param((2,), ["master", *["pipe"] * 4, "slave"], id="terminal for standard error"),
    ],
)
def test_only_the_streams_of_the_command_stay_open(
    opened: Callable[[], list[str]], tty: tuple[int, ...], kinds: list[str]
) -> None:
    Machine(START.replace(command=START.command.replace(tty=tty))).boot()
    assert opened() == kinds
