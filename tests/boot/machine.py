"""A virtual machine of the tests: QEMU and one virtiofsd for each share.

The tests start these themselves, on purpose not with `chrootvm`: they need machines that it would
never start, without an initrd, without a transport, or with a share that is plugged in late.

Every process dies with this one, and is gone when the `with` of `running` ends.
"""

import json
import os
import select
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

from testbed import assets

QEMU = "qemu-system-x86_64"
DEADLINE = 180.0  # seconds; a boot takes three of them, but this machine may be busy
DIE_WITH_US = ("setpriv", "--pdeathsig", "KILL", "--")
# Emulated on a busy machine, the timer may look broken to a kernel that checks it.
CONSOLE = "console=ttyS0 no_timer_check"
FAMILIES = ("c", "rust")
FREE_SLOT = ("-device", "pcie-root-port,id=free-slot,chassis=1")  # for a device that comes late


class Hung(AssertionError):
    """The machine did not do in time what was waited for."""


@dataclass(frozen=True)
class Share:
    """A directory of this machine, and the tag by which the guest asks for it."""

    tag: str
    path: str
    family: str = "rust"  # of virtiofsd
    readonly: bool = False  # only the Rust family can


@dataclass(frozen=True)
class Machine:
    """What boots, and what it finds."""

    kernel: str  # path of the image
    append: str
    initrd: str | None = None
    shares: tuple[Share, ...] = ()
    late: tuple[Share, ...] = ()  # served from the start, plugged in by Running.plug
    memory: str = "256M"
    qemu_arguments: tuple[str, ...] = ()


@dataclass
class Boot:
    """What came of a boot."""

    console: str
    report: str  # what the guest wrote to its second serial port
    status: int  # of QEMU
    seconds: float

    def section(self, heading: str) -> str:
        """Return what the report has below a line `=== HEADING`."""
        parts = [part.partition("\n") for part in ("\n" + self.report).split("\n=== ")[1:]]
        found = {name: body.rstrip("\n") for name, _, body in parts}
        assert heading in found, f"no report on {heading}; console:\n{self.console}"
        return found[heading]


@dataclass
class Running:
    """A machine that runs: its console to read and write, its devices to change."""

    process: subprocess.Popen[bytes]
    directory: str
    machine: Machine
    started: float = field(default_factory=time.monotonic)
    console: bytes = b""

    def expect(self, text: str, seconds: float = DEADLINE) -> None:
        """Read the console until `text` appears on it. Raises Hung when it does not."""
        self._read(seconds, text.encode())

    def send(self, text: str) -> None:
        """Type on the console."""
        assert self.process.stdin
        self.process.stdin.write(text.encode())
        self.process.stdin.flush()

    def plug(self, tag: str) -> None:
        """Plug in the device of a late share, through QEMU's monitor."""
        self.plug_device("vhost-user-fs-pci", chardev=f"chardev-{tag}", tag=tag)

    def plug_device(self, driver: str, **properties: str) -> None:
        """Plug in a device, through QEMU's monitor, where `late` or FREE_SLOT has left a slot."""
        with socket.socket(socket.AF_UNIX) as monitor:
            monitor.connect(f"{self.directory}/monitor")
            _tell(monitor, "qmp_capabilities")
            _tell(monitor, "device_add", driver=driver, bus="free-slot", id="late", **properties)

    def wait(self, seconds: float = DEADLINE) -> Boot:
        """Wait for the machine to power off."""
        self._read(seconds, None)
        status = self.process.wait()
        with open(f"{self.directory}/report", "rb") as file:
            report = _text(file.read())
        return Boot(_text(self.console), report, status, time.monotonic() - self.started)

    def _read(self, seconds: float, until: bytes | None) -> None:
        """Collect the console up to `until`, or to its end."""
        assert self.process.stdout
        deadline = time.monotonic() + seconds
        while until is None or until not in self.console:
            left = max(deadline - time.monotonic(), 0)
            if not select.select([self.process.stdout], [], [], left)[0]:
                raise Hung(f"{until!r} after {seconds:g} s; console:\n{_text(self.console)}")
            data = os.read(self.process.stdout.fileno(), 65536)
            if not data and until is None:
                return
            if not data:
                raise Hung(f"{until!r} before power-off; console:\n{_text(self.console)}")
            self.console += data


def boot(machine: Machine, directory: str, seconds: float = DEADLINE) -> Boot:
    """Boot a machine and wait until it is off. Its files go to `directory`."""
    with running(machine, directory) as it:
        return it.wait(seconds)


@contextmanager
def running(machine: Machine, directory: str) -> Iterator[Running]:
    """Start a machine; when the block ends it is gone, with all that belongs to it."""
    os.makedirs(directory, exist_ok=True)
    with ExitStack() as stack:
        for share in (*machine.shares, *machine.late):
            stack.enter_context(_virtiofsd(share, directory))
        process = stack.enter_context(_process(qemu_command(machine, directory)))
        yield Running(process, directory, machine)


def qemu_command(machine: Machine, directory: str) -> list[str]:
    """Return the command that runs a machine. Console: standard input and output."""
    command = [QEMU, "-nodefaults", "-no-user-config", "-no-reboot", "-display", "none"]
    command += ["-machine", "q35,memory-backend=memory", "-accel", "tcg", "-m", machine.memory]
    command += ["-object", f"memory-backend-memfd,id=memory,size={machine.memory},share=on"]
    command += ["-chardev", "stdio,id=console,signal=off", "-serial", "chardev:console"]
    command += ["-serial", f"file:{directory}/report"]
    command += ["-qmp", f"unix:{directory}/monitor,server=on,wait=off"]
    command += FREE_SLOT if machine.late else ()
    command += ["-kernel", machine.kernel, "-append", f"{CONSOLE} {machine.append}"]
    command += ["-initrd", machine.initrd] if machine.initrd else []
    for share in (*machine.shares, *machine.late):
        path = f"{directory}/{share.tag}.socket".replace(",", ",,")
        command += ["-chardev", f"socket,id=chardev-{share.tag},path={path}"]
    for share in machine.shares:
        device = f"vhost-user-fs-pci,chardev=chardev-{share.tag},tag={share.tag}"
        command += ["-device", device]
    return [*command, *machine.qemu_arguments]


def virtiofsd_command(share: Share, fd: int) -> list[str]:
    """Return the command that serves a share on the listening socket `fd`."""
    if share.family == "c":
        options = f"source={share.path},sandbox=chroot"
        return [assets.c_virtiofsd(), f"--fd={fd}", "-o", options]
    command = [assets.rust_virtiofsd(), f"--fd={fd}", "--sandbox=chroot"]
    command += ["--readonly"] if share.readonly else []
    return [*command, f"--shared-dir={share.path}"]


@contextmanager
def _virtiofsd(share: Share, directory: str) -> Iterator[None]:
    """Serve a share on a socket that is bound before anybody can look for it."""
    with socket.socket(socket.AF_UNIX) as server, ExitStack() as stack:
        server.bind(f"{directory}/{share.tag}.socket")
        server.listen(1)
        log = stack.enter_context(open(f"{directory}/{share.tag}.log", "wb"))
        command = virtiofsd_command(share, server.fileno())
        stack.enter_context(_process(command, stdout=log.fileno(), pass_fds=(server.fileno(),)))
        yield


@contextmanager
def _process(
    command: list[str], stdout: int = subprocess.PIPE, pass_fds: tuple[int, ...] = ()
) -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(
        [*DIE_WITH_US, *command],
        stdin=subprocess.PIPE,
        stdout=stdout,
        stderr=subprocess.STDOUT,
        pass_fds=pass_fds,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def _tell(monitor: socket.socket, command: str, **arguments: str) -> None:
    """Give a command to QEMU's monitor and read the answer to it, past what else it tells."""
    monitor.sendall(json.dumps({"execute": command, "arguments": arguments}).encode())
    with monitor.makefile("r", encoding="utf-8") as lines:
        for answer in map(json.loads, lines):
            assert "error" not in answer, answer
            if "return" in answer:
                return


def _text(data: bytes) -> str:
    return data.decode("utf-8", "replace").replace("\r", "")
