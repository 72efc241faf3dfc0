"""Machines with a command in their image, and the sockets to its ports."""

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
from tests.host_end import Host

INIT = "dist/init"


@dataclass
class MachineHost(Host):
    """The host of a command in a real machine."""

    machine: Running | None = None

    def end(self) -> "Ended":
        """Wait for the end of the command and of the machine."""
        message = self.last_message()
        self.tell("bye")
        assert self.machine
        boot = self.machine.wait()
        received = {"stdout": b"", "stderr": b"", "tty": b"", **self.received}
        streams = (received["stdout"], received["stderr"], received["tty"])
        return Ended(message, *streams, self.messages, boot.console)

    def remark(self) -> str:
        """Show the console."""
        assert self.machine
        assert self.machine.process.stdout
        if select.select([self.machine.process.stdout], [], [], 0)[0]:
            self.machine.console += os.read(self.machine.process.stdout.fileno(), 65536)
        return "; console: " + self.machine.console.decode("utf-8", "replace")

    def hang_up(self, name: str) -> None:
        """Close the host's end of a port."""
        self.sockets.pop(name).close()


@dataclass
class Ended:
    """How a command ended."""

    message: str
    stdout: bytes
    stderr: bytes
    terminal: bytes
    messages: list[str]
    console: str


def run(command: Command, directory: str, stdin: bytes = b"", **changes: object) -> Ended:
    """Run a command in a machine of its own to its end."""
    with commanded(command, directory, **changes) as host:
        if "stdin" in host.sockets:
            host.give(stdin)
        return host.end()


@contextmanager
def commanded(
    command: Command,
    directory: str,
    *,
    append: str = "",
    shares: tuple[Share, ...] = (),
    root: str = "",
    suite: str = "bookworm",
    ports: tuple[str, ...] | None = None,
    more_modules: tuple[str, ...] = (),
    more_arguments: tuple[str, ...] = (),
    **machine: object,
) -> Iterator[MachineHost]:
    """Boot a machine with a command in its image, and be its host."""
    os.makedirs(directory, exist_ok=True)
    names = [name.removeprefix("initrd.") for name in (command.ports if ports is None else ports)]
    root = root or assets.busybox_root()
    with ExitStack() as stack:
        listening = {name: stack.enter_context(_listen(directory, name)) for name in names}
        guest = Machine(
            kernel=assets.kernel(suite).image,
            append=f"quiet panic=-1 {append}",
            initrd=_image(command, directory, suite, more_modules),
            shares=(Share("rootfs", root), *shares),
            qemu_arguments=(*_port_arguments(directory, names), *more_arguments),
            **machine,  # type: ignore[arg-type]
        )
        it = stack.enter_context(running(guest, directory))
        sockets = {name: stack.enter_context(port.accept()[0]) for name, port in listening.items()}
        yield MachineHost(sockets, dict.fromkeys(("control", *names), b""), machine=it)


def _image(command: Command, directory: str, suite: str, more: tuple[str, ...]) -> str:
    wanted = [*modules.ALWAYS, *map(modules.module_requirement, ("virtio_console", *more))]
    chosen = modules.choose_modules(assets.kernel(suite).modules, wanted)
    data = build.build_image(build.read_init(INIT), chosen, "none")
    path = f"{directory}/image"
    with open(path, "wb") as file:
        file.write(data + cpio.gap(len(data)))
        file.write(cpio.pack([cpio.file(COMMAND_FILE.lstrip("/"), dump(command), 0o600)]))
    return path


@contextmanager
def _listen(directory: str, name: str) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(f"{directory}/port-{name}")
        server.listen(1)
        server.settimeout(DEADLINE)
        yield server


def _port_arguments(directory: str, names: list[str]) -> Iterator[str]:
    yield from ("-device", "virtio-serial-pci")
    for name in names:
        yield from ("-chardev", f"socket,id=port-{name},path={directory}/port-{name}")
        yield from ("-device", f"virtserialport,chardev=port-{name},name=initrd.{name}")
