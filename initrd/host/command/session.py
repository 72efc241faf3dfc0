"""A machine that runs one command: the sockets of its ports, and its status at the end."""

import os
import signal
import socket
from contextlib import ExitStack, contextmanager

from initrd.command import Command, CommandError, Commands
from initrd.host.command.protocol import CommandProtocol, LocalStreams
from initrd.host.image.build import append_command_file, encode_command
from initrd.host.machine.launch import Launch
from initrd.host.machine.run import HostStreams, RunningMachine, start_machine
from initrd.host.qemu.console import (
    KernelPanic,
    explain_boot_failure,
    explain_oom_kill,
    explain_refusal,
    find_panic,
    keep_console,
    keep_panic,
    split_hint,
)
from initrd.host.system.hosterror import HostError
from initrd.host.system.loop import Loop
from initrd.template import PORTS, SEED_SIZE, Start, dump_start

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Self

_SWITCHED_OFF = "the machine was switched off before the command ended"
_HALTED = "the guest was halted (halt -f) before the command ended"
KILLED = 128 + signal.SIGKILL
_DELIVERY = 1.0  # seconds for messages to be read that were sent before the machine ended


class CommandSession:
    """A machine in which a command runs."""

    ended_by_escape = "the machine"  # by the escape key of a terminal

    def __init__(self, launch: Launch, machine: RunningMachine, guest: CommandProtocol) -> None:
        self.machine, self.guest = machine, guest
        self._launch = launch

    @property
    def loop(self) -> Loop:
        """The loop of the machine and of the command."""
        return self.machine.loop

    @property
    def finished(self) -> bool:
        """Whether nothing more will come from the guest."""
        return self.guest.finished or self.machine.is_off

    def wait(self, until: "Callable[[], bool]", seconds: float | None = None) -> bool:
        """Wait for the end of the command, or `until`; return False when `seconds` pass before."""
        return self.machine.loop.run(lambda: self.finished or until(), seconds)

    def kill(self) -> None:
        """Do nothing: the machine ends, and its command with it."""

    def status(self, warn: "Callable[[str], object]") -> int:
        """Return the exit status of the command; `warn` of an out-of-memory kill.

        Raises HostError when there is no status; KernelPanic is one.
        """
        self.machine.loop.run(lambda: self.guest.finished, 0 if self.guest.finished else _DELIVERY)
        if self.machine.disk_error:  # whatever the guest has sent: its changes are not all written
            self.machine.ending()  # raises the error
        if self.guest.final is None:
            failure = self._find_failure()
            raise self._find_panic() or self._make_error(failure)
        if self.guest.failure:
            raise self._make_error(self.guest.failure)
        if self.guest.refusal:
            raise explain_refusal(self.guest.refusal)
        status = self.guest.status()
        killed = self.explain_oom_kill() if status == KILLED else ""
        if killed:
            warn(killed)
        if self.guest.output_error and not status:
            # A command with little output ends before the message `closed` reaches the guest.
            raise HostError("the command's output is not all there", self.guest.output_error)
        return status

    def find_error(self) -> HostError:
        """Return why a machine for several commands is off that was not asked to end."""
        try:
            failure = self._find_failure()
        except HostError as error:  # of QEMU or virtiofsd
            return error
        panic = self._find_panic()
        if self.machine.has_halted:
            return HostError("the machine has ended", "it was halted from inside (halt -f)")
        if panic or failure == _SWITCHED_OFF:
            return panic or HostError("the machine has ended", "it was switched off from inside")
        ended = HostError("the machine has ended", *split_hint(failure))
        return keep_console(ended, self._launch.logs, self.machine.log.text)

    def _find_failure(self) -> str:
        """Return why there is no status. A guest that has sent a message did not fail to start."""
        failure = self.machine.ending().failure
        if self.machine.has_halted:
            return _HALTED
        started = self.guest.received_any and not self.machine.log.text
        return _SWITCHED_OFF if started or not failure else failure

    def _find_panic(self) -> KernelPanic | None:
        """Return the error for a panic while the command ran, after saving the console's output."""
        if not self.guest.started or self.machine.was_terminated:
            return None
        console, memory = self.machine.log.text, self._launch.setup.hardware.memory
        panic = find_panic(console, memory)
        if panic and console:
            keep_panic(panic, self._launch.logs, console)
        return panic

    def explain_oom_kill(self, position: int = 0) -> str:
        """Return the message that the guest ran out of memory; empty if it did not.

        `position`: the size of the console's log when the command began.
        """
        console = self.machine.log.text_after(position)
        return explain_oom_kill(console, self._launch.setup.hardware.memory)

    def _make_error(self, why: str) -> HostError:
        """Return the error for a failed boot, after saving the console's output.

        A command that runs may end its machine, which is no failure of the boot.
        """
        if why in (_HALTED, _SWITCHED_OFF) and self.guest.started:
            return HostError("the machine has ended", why)
        memory = self._launch.setup.hardware.memory
        error = explain_boot_failure(why, memory, self._launch.kernel)
        return keep_console(error, self._launch.logs, self.machine.log.text)


@contextmanager
def start_session(
    launch: Launch, local: LocalStreams, loop: Loop, streams: HostStreams
) -> "Iterator[CommandSession]":
    """Start a machine that runs the command of `launch`, with a socket pair for each port.

    Raises HostError; and Cancelled when the limit is reached before the machine runs.
    """
    command = launch.command
    if command is None:
        raise ValueError("a launch without a command")
    with ExitStack() as stack:
        session = None
        if launch.warm is not None:
            try:
                warm = _start_warm(launch, command, local, loop, streams)
                session = stack.enter_context(warm)
            except HostError as error:  # in the machine without a template it may happen again
                streams.on_note(f"booting without a template: {_explain(error)}")
        session = session or stack.enter_context(_boot(launch, command, local, loop, streams))
        yield session
        session.guest.send("bye")


def _explain(error: HostError) -> str:
    """Return why no template is used; a reason such as `its mode is 0755` needs what it is of."""
    from initrd.host.template.start import TemplateError  # noqa: PLC0415 - loaded with --warm

    return error.why if isinstance(error, TemplateError) else f"{error.what}: {error.why}"


@contextmanager
def _boot(
    launch: Launch,
    command: Command | Commands,
    local: LocalStreams,
    loop: Loop,
    streams: HostStreams,
) -> "Iterator[CommandSession]":
    """Boot a machine with the command in its image."""
    image = append_command_file(launch.setup.initrd, encode_command(command))
    setup = launch.setup.replace(initrd=image, ports=command.ports)
    with _Ports(command.ports, command.ports) as ports, ExitStack() as stack:
        closing_image = stack.enter_context(ExitStack())
        closing_image.callback(os.close, image.descriptor)
        of_machine = streams.replace(ports=ports.of_qemu)
        machine = stack.enter_context(start_machine(launch.replace(setup=setup), loop, of_machine))
        closing_image.close()
        yield stack.enter_context(_connect(launch, machine, ports, local))


@contextmanager
def _start_warm(
    launch: Launch,
    command: Command | Commands,
    local: LocalStreams,
    loop: Loop,
    streams: HostStreams,
) -> "Iterator[CommandSession]":
    """Start a machine from a template, and send it the command."""
    from initrd.host.template.warm import start_warm  # noqa: PLC0415 - only with --warm

    try:
        content = dump_start(Start(launch.setup.cmdline, command, os.urandom(SEED_SIZE)))
    except CommandError as error:
        raise HostError("cannot run the command", str(error)) from error
    setup = launch.setup.replace(ports=PORTS)
    with _Ports(PORTS, command.ports) as ports, ExitStack() as stack:
        of_machine = streams.replace(ports=ports.of_qemu)
        machine = stack.enter_context(start_warm(launch.replace(setup=setup), loop, of_machine))
        session = stack.enter_context(_connect(launch, machine, ports, local))
        session.guest.on_awake = machine.wait_for_virtiofsd
        session.guest.send_start(content)
        yield session


class _Ports:
    """The socket pairs of a machine's ports; the ends are closed with the `with`."""

    def __init__(self, names: tuple[str, ...], used: tuple[str, ...]) -> None:
        self._pairs = {name: socket.socketpair() for name in used}
        numbers = {name: qemu_end.fileno() for name, (_, qemu_end) in self._pairs.items()}
        self.of_qemu = tuple(numbers.get(name, -1) for name in names)

    def __enter__(self) -> "Self":
        return self

    def __exit__(self, *_: object) -> None:
        for pair in self._pairs.values():
            for end in pair:
                end.close()

    def hand_over(self) -> dict[str, socket.socket]:
        """Close QEMU's ends, which it has inherited; return the others."""
        for _, qemu_end in self._pairs.values():
            qemu_end.close()
        return {name: host_end for name, (host_end, _) in self._pairs.items()}


@contextmanager
def _connect(
    launch: Launch, machine: RunningMachine, ports: _Ports, local: LocalStreams
) -> "Iterator[CommandSession]":
    guest = CommandProtocol(machine.loop, ports.hand_over(), local)
    try:
        yield CommandSession(launch, machine, guest)
    finally:
        guest.close()
