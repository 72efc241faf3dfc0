"""Boot machines with a command file in their image, and connect to the ports of the command.

With CHROOTVM_TEST_WARM in the environment the machines start from a template instead.
"""

import os
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

from initrd.command import Command, dump
from initrd.host.image import build, cpio, modules
from initrd.options import COMMAND_FILE
from testbed import assets
from tests.boot.machine import DEADLINE, Machine, Running, Share, running
from tests.boot.start_chrootvm import WARM
from tests.boot.warm_machine import CommandMachine, WarmMachine, running_warm
from tests.command_host import Host

INIT = "dist/init"


@dataclass
class MachineHost(Host):
    """The host's end of a command in a virtual machine."""

    machine: Running | WarmMachine | None = None

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
        return "; console: " + self.machine.console_so_far()

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


def run(command: Command, directory: str, stdin: bytes = b"", **changes: Any) -> CommandResult:
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
    disks: tuple[str, ...] = (),
    root: str = "",
    suite: str = "bookworm",
    ports: tuple[str, ...] | None = None,
    extra_modules: tuple[str, ...] = (),
    memory: str = Machine.memory,
) -> Iterator[MachineHost]:
    """Start a machine with a command; yield the host's end of its ports.

    `disks`: paths of raw images. `ports`: those that the machine has, in place of the command's.
    """
    os.makedirs(directory, exist_ok=True)
    names = command.ports if ports is None else ports
    plan = CommandMachine(
        cmdline=f"quiet panic=-1 {append}",
        shares=(Share("rootfs", root or assets.busybox_root()), *shares),
        disks=disks,
        suite=suite,
        ports=tuple(name.removeprefix("initrd.") for name in names),
        modules=extra_modules,
        memory=memory,
    )
    is_warm = bool(os.environ.get(WARM))
    with _start_warm(command, plan) if is_warm else _boot(command, plan, directory) as host:
        yield host


@contextmanager
def _boot(command: Command, plan: CommandMachine, directory: str) -> Iterator[MachineHost]:
    """Boot a machine with a command in its image."""
    with ExitStack() as stack:
        listeners = {name: stack.enter_context(_listen(directory, name)) for name in plan.ports}
        guest = Machine(
            kernel=assets.kernel(plan.suite).image,
            append=plan.cmdline,
            initrd=_make_image(command, directory, plan.suite, plan.modules),
            shares=plan.shares,
            qemu_arguments=(*_port_arguments(directory, plan.ports), *_disk_arguments(plan.disks)),
            memory=plan.memory,
        )
        process = stack.enter_context(running(guest, directory))
        sockets = {name: stack.enter_context(port.accept()[0]) for name, port in listeners.items()}
        yield MachineHost(sockets, dict.fromkeys(("control", *plan.ports), b""), machine=process)


@contextmanager
def _start_warm(command: Command, plan: CommandMachine) -> Iterator[MachineHost]:
    """Start a machine from a template, and send it the command: docs/command.md."""
    with running_warm(command, plan) as (machine, sockets, start):
        host = MachineHost(sockets, dict.fromkeys(plan.ports, b""), machine=machine)
        sockets["control"].sendall(start)
        host.expect("awake")
        machine.wait_for_virtiofsd()
        host.send(f"time {time.time_ns() // 1000}")
        host.expect("ready")  # the guest takes an earlier message for a part of the answer
        yield host


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


def _disk_arguments(disks: tuple[str, ...]) -> Iterator[str]:
    for number, path in enumerate(disks):
        yield from ("-drive", f"file={path},if=none,format=raw,id=disk{number}")
        yield from ("-device", f"virtio-blk,drive=disk{number}")


def _port_arguments(directory: str, names: tuple[str, ...]) -> Iterator[str]:
    """Return the QEMU arguments for a virtio-serial device with these ports."""
    yield from ("-device", "virtio-serial-pci")
    for name in names:
        yield from ("-chardev", f"socket,id=port-{name},path={directory}/port-{name}")
        yield from ("-device", f"virtserialport,chardev=port-{name},name=initrd.{name}")
