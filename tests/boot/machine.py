"""Start a virtual machine for a test: QEMU and one virtiofsd for each share.

`chrootvm` is not used here, because the tests need machines that it never starts: without an
initrd, without a virtio transport, or with a share that is plugged in late.

Most machines start the uncompressed kernel with a small firmware, and skip the kernel's tests of
its own ciphers: an emulated boot takes two thirds of the time then. A `plain` one, and one of
another architecture, boots as from a command that a user writes by hand: the kernel's image, with
QEMU's default firmware.

Every process is killed when the test process dies, and when the `with` block of `running` ends.
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

from initrd.host.qemu import pvh
from testbed import assets

QEMU = f"qemu-system-{assets.architecture()}"
DEADLINE = 180.0  # seconds; a boot takes three, and more on a busy machine
KILL_WITH_PARENT = ("setpriv", "--pdeathsig", "KILL", "--")
# The machine and the processor for each architecture; the kernel's words for the console. The
# kernel's timer check can fail when QEMU emulates the processor on a busy machine.
HARDWARE, CONSOLE = {
    "x86_64": (("-machine", "q35,memory-backend=memory"), "console=ttyS0 no_timer_check"),
    "aarch64": (
        ("-machine", "virt,gic-version=max,memory-backend=memory", "-cpu", "max,pauth-impdef=on"),
        "console=ttyAMA0",
    ),
}[assets.architecture()]
QUICK = "cryptomgr.notests noreplace-smp"  # less work for an emulated processor
FAMILIES = ("c", "rust")
FREE_SLOT = ("-device", "pcie-root-port,id=free-slot,chassis=1")  # for a hot-plugged device


class GuestTimeout(AssertionError):
    """The expected text, or the power-off, did not come before the deadline."""


@dataclass(frozen=True)
class Share:
    """A directory of the host, and the virtiofs tag with which the guest mounts it."""

    tag: str
    path: str
    family: str = "rust"  # which virtiofsd, of FAMILIES
    readonly: bool = False  # for the Rust virtiofsd only


@dataclass(frozen=True)
class Machine:
    """The kernel, initramfs, command line and devices of a machine."""

    kernel: str  # path of the kernel image
    append: str
    initrd: str | None = None
    shares: tuple[Share, ...] = ()
    hotplug_shares: tuple[
        Share, ...
    ] = ()  # virtiofsd runs from the start; Running.plug_share adds the device
    memory: str = "256M"
    qemu_arguments: tuple[str, ...] = ()
    plain: bool = False  # boot the image of the kernel, with QEMU's default firmware


@dataclass
class Boot:
    """The result of a boot."""

    console: str
    report: str  # what the guest wrote to its second serial port
    status: int  # exit status of QEMU
    seconds: float  # from the start of QEMU to its exit

    def section(self, heading: str) -> str:
        """Return the part of the report below the line `=== HEADING`."""
        parts = [part.partition("\n") for part in ("\n" + self.report).split("\n=== ")[1:]]
        sections = {name: body.rstrip("\n") for name, _, body in parts}
        assert heading in sections, f"no report on {heading}; console:\n{self.console}"
        return sections[heading]


@dataclass
class Running:
    """A running machine: reads and writes its console, plugs in devices."""

    process: subprocess.Popen[bytes]
    directory: str
    machine: Machine
    started: float = field(default_factory=time.monotonic)
    console: bytes = b""

    def expect(self, text: str, seconds: float = DEADLINE) -> None:
        """Read the console until `text` appears. Raises GuestTimeout when it does not."""
        self._read_console(seconds, text.encode())

    def send(self, text: str) -> None:
        """Write `text` to the console."""
        assert self.process.stdin
        self.process.stdin.write(text.encode())
        self.process.stdin.flush()

    def plug_share(self, tag: str) -> None:
        """Plug in the virtiofs device of a late share, through QEMU's monitor."""
        self.plug_device("vhost-user-fs-pci", chardev=f"chardev-{tag}", tag=tag)

    def plug_device(self, driver: str, **properties: str) -> None:
        """Plug in a device, through QEMU's monitor.

        The machine needs a free slot: a share in `hotplug_shares`, or FREE_SLOT in its arguments.
        """
        with socket.socket(socket.AF_UNIX) as monitor:
            monitor.connect(f"{self.directory}/monitor")
            _execute(monitor, "qmp_capabilities")
            _execute(monitor, "device_add", driver=driver, bus="free-slot", id="late", **properties)

    def wait(self, seconds: float = DEADLINE) -> Boot:
        """Wait for the machine to power off. Raises GuestTimeout when it does not."""
        self._read_console(seconds, None)
        status = self.process.wait()
        with open(f"{self.directory}/report", "rb") as file:
            report = _text(file.read())
        return Boot(_text(self.console), report, status, time.monotonic() - self.started)

    def console_so_far(self) -> str:
        """Return what the guest has printed, without waiting for more."""
        assert self.process.stdout
        if select.select([self.process.stdout], [], [], 0)[0]:
            self.console += os.read(self.process.stdout.fileno(), 65536)
        return _text(self.console)

    def _read_console(self, seconds: float, until: bytes | None) -> None:
        """Read the console until it contains `until`; with None, to its end."""
        assert self.process.stdout
        deadline = time.monotonic() + seconds
        while until is None or until not in self.console:
            timeout = max(deadline - time.monotonic(), 0)
            if not select.select([self.process.stdout], [], [], timeout)[0]:
                raise GuestTimeout(
                    f"{until!r} after {seconds:g} s; console:\n{_text(self.console)}"
                )
            data = os.read(self.process.stdout.fileno(), 65536)
            if not data and until is None:
                return
            if not data:
                raise GuestTimeout(f"{until!r} before power-off; console:\n{_text(self.console)}")
            self.console += data


def boot(machine: Machine, directory: str, seconds: float = DEADLINE) -> Boot:
    """Boot a machine and wait until it powers off. Its sockets and logs go to `directory`."""
    with running(machine, directory) as guest:
        return guest.wait(seconds)


@contextmanager
def running(machine: Machine, directory: str) -> Iterator[Running]:
    """Start a machine; kill QEMU and every virtiofsd when the block ends."""
    os.makedirs(directory, exist_ok=True)
    with ExitStack() as stack:
        for share in (*machine.shares, *machine.hotplug_shares):
            stack.enter_context(_virtiofsd(share, directory))
        process = stack.enter_context(_process(qemu_command(machine, directory)))
        yield Running(process, directory, machine)


def qemu_command(machine: Machine, directory: str) -> list[str]:
    """Return the QEMU command of a machine. Its console is standard input and output."""
    command = [QEMU, "-nodefaults", "-no-user-config", "-no-reboot", "-display", "none"]
    command += [*HARDWARE, "-accel", "tcg", "-m", machine.memory]
    command += ["-object", f"memory-backend-memfd,id=memory,size={machine.memory},share=on"]
    command += ["-chardev", "stdio,id=console,signal=off", "-serial", "chardev:console"]
    command += ["-serial", f"file:{directory}/report"]
    command += ["-qmp", f"unix:{directory}/monitor,server=on,wait=off"]
    command += FREE_SLOT if machine.hotplug_shares else ()
    command += _kernel_arguments(machine)
    command += ["-initrd", machine.initrd] if machine.initrd else []
    for share in (*machine.shares, *machine.hotplug_shares):
        path = f"{directory}/{share.tag}.socket".replace(",", ",,")
        command += ["-chardev", f"socket,id=chardev-{share.tag},path={path}"]
    for share in machine.shares:
        device = f"vhost-user-fs-pci,chardev=chardev-{share.tag},tag={share.tag}"
        command += ["-device", device]
    return [*command, *machine.qemu_arguments]


def _kernel_arguments(machine: Machine) -> list[str]:
    """Return the QEMU arguments for the kernel, its firmware and its command line."""
    if machine.plain or assets.architecture() != "x86_64":
        return ["-kernel", machine.kernel, "-append", f"{CONSOLE} {machine.append}"]
    append = f"{CONSOLE} {QUICK} {machine.append}"
    return ["-bios", "qboot.rom", "-kernel", _uncompressed(machine.kernel), "-append", append]


def _uncompressed(image: str) -> str:
    """Return the path of the ELF file in an x86 image, which QEMU starts by its PVH entry point."""

    def make(directory: str) -> None:
        with open(image, "rb") as file, open(f"{directory}/vmlinux", "wb") as kernel:
            kernel.write(pvh.extract_vmlinux(file.read()))

    status = os.stat(image)
    identity = (image, str(status.st_size), str(status.st_mtime_ns))
    return f"{assets.make_once('vmlinux', make, *identity)}/vmlinux"


def has_long_queues() -> bool:
    """Return whether this QEMU's queues of virtio-serial have 1024 entries: 10.0, and not 7.2."""
    version = subprocess.run([QEMU, "--version"], check=True, capture_output=True, text=True).stdout
    return int(version.split("version ")[1].split(".")[0]) >= 10


def virtiofsd_command(share: Share, fd: int) -> list[str]:
    """Return the virtiofsd command that serves a share on the listening socket `fd`."""
    if share.family == "c":
        options = f"source={share.path},sandbox=chroot"
        return [assets.c_virtiofsd(), f"--fd={fd}", "-o", options]
    command = [assets.rust_virtiofsd(), f"--fd={fd}", "--sandbox=chroot"]
    command += ["--readonly"] if share.readonly else []
    return [*command, f"--shared-dir={share.path}"]


@contextmanager
def _virtiofsd(share: Share, directory: str) -> Iterator[None]:
    """Start virtiofsd on a socket that is bound before QEMU starts; kill it at the end."""
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
    """Start a process; kill it when the block ends."""
    with subprocess.Popen(
        [*KILL_WITH_PARENT, *command],
        stdin=subprocess.PIPE,
        stdout=stdout,
        stderr=subprocess.STDOUT,
        pass_fds=pass_fds,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def _execute(monitor: socket.socket, command: str, **arguments: str) -> None:
    """Send a command to QEMU's monitor (QMP) and read its reply, skipping events."""
    monitor.sendall(json.dumps({"execute": command, "arguments": arguments}).encode())
    with monitor.makefile("r", encoding="utf-8") as lines:
        for message in map(json.loads, lines):
            assert "error" not in message, message
            if "return" in message:
                return


def _text(data: bytes) -> str:
    """Decode console output, without its carriage returns."""
    return data.decode("utf-8", "replace").replace("\r", "")
