"""Boot machines with a command file in their image, and connect to the ports of the command."""

import os
import select
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from initrd.command import Command, dump
from initrd.host.image import build, cpio, modules
from initrd.options import COMMAND_FILE
from testbed import assets
from tests.boot.machine import DEADLINE, Machine, Running, Share, running
from tests.command_host import Host

INIT = "dist/init"


@dataclass
class MachineHost(Host):
    """The host's end of a command in a virtual machine."""

    machine: Running | None = None

    def end(self) -> "CommandResult":
        """Wait until the command has ended and the machine is off; return the results."""
        message = self.last_message()
        self.send("bye")
        assert self.machine
        boot = self.machine.wait()
        received = {"stdout": b"", "stderr": b"", "tty": b"", **self.received}
        streams = (received["stdout"], received["stderr"], received["tty"])
        return CommandResult(message, *streams, self.messages, boot.console)

    def failure_context(self) -> str:
        """Return the console output, for a failure message."""
        assert self.machine
        assert self.machine.process.stdout
        if select.select([self.machine.process.stdout], [], [], 0)[0]:
            self.machine.console += os.read(self.machine.process.stdout.fileno(), 65536)
        return "; console: " + self.machine.console.decode("utf-8", "replace")

    def close_port(self, name: str) -> None:
        """Close the host's end of a port."""
        self.sockets.pop(name).close()


@dataclass
class CommandResult:
    """The results of a command."""

    message: str  # the last one on the control port: `exit N`, `signal N`, `failed …`
    stdout: bytes
    stderr: bytes
    terminal: bytes
    messages: list[str]  # all messages on the control port
    console: str


def run(command: Command, directory: str, stdin: bytes = b"", **changes: object) -> CommandResult:
    """Boot a machine with a command, wait until both have ended, and return the results."""
    with boot_with_command(command, directory, **changes) as host:
        if "stdin" in host.sockets:
            host.send_stdin(stdin)
        return host.end()


@contextmanager
def boot_with_command(
    command: Command,
    directory: str,
    *,
    append: str = "",
    shares: tuple[Share, ...] = (),
    root: str = "",
    suite: str = "bookworm",
    ports: tuple[str, ...] | None = None,
    extra_modules: tuple[str, ...] = (),
    extra_arguments: tuple[str, ...] = (),
    **machine: object,
) -> Iterator[MachineHost]:
    """Boot a machine with a command in its image; yield the host's end of its ports."""
    os.makedirs(directory, exist_ok=True)
    names = [name.removeprefix("initrd.") for name in (command.ports if ports is None else ports)]
    root = root or assets.busybox_root()
    with ExitStack() as stack:
        listeners = {name: stack.enter_context(_listen(directory, name)) for name in names}
        guest = Machine(
            kernel=assets.kernel(suite).image,
            append=f"quiet panic=-1 {append}",
            initrd=_make_image(command, directory, suite, extra_modules),
            shares=(Share("rootfs", root), *shares),
            qemu_arguments=(*_port_arguments(directory, names), *extra_arguments),
            **machine,  # type: ignore[arg-type]
        )
        process = stack.enter_context(running(guest, directory))
        sockets = {name: stack.enter_context(port.accept()[0]) for name, port in listeners.items()}
        yield MachineHost(sockets, dict.fromkeys(("control", *names), b""), machine=process)


def _make_image(command: Command, directory: str, suite: str, more: tuple[str, ...]) -> str:
    """Make an image with virtio_console, the modules `more` and the command; return its path."""
    required = [*modules.ALWAYS, *map(modules.module_requirement, ("virtio_console", *more))]
    chosen = modules.choose_modules(assets.kernel(suite).modules, required)
    data = build.build_image(build.read_init(INIT), chosen, "none")
    path = f"{directory}/image"
    with open(path, "wb") as file:
        file.write(data + cpio.padding(len(data)))
        file.write(cpio.pack([cpio.file(COMMAND_FILE.lstrip("/"), dump(command), 0o600)]))
    return path


@contextmanager
def _listen(directory: str, name: str) -> Iterator[socket.socket]:
    """Listen on the UNIX socket to which QEMU connects a port."""
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(f"{directory}/port-{name}")
        server.listen(1)
        server.settimeout(DEADLINE)
        yield server


def _port_arguments(directory: str, names: list[str]) -> Iterator[str]:
    """Return the QEMU arguments for a virtio-serial device with these ports."""
    yield from ("-device", "virtio-serial-pci")
    for name in names:
        yield from ("-chardev", f"socket,id=port-{name},path={directory}/port-{name}")
        yield from ("-device", f"virtserialport,chardev=port-{name},name=initrd.{name}")
