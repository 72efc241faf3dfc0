"""A machine that runs one command: the sockets of its ports, and its status at the end."""

import signal
import socket
from contextlib import ExitStack, closing, contextmanager

from initrd.errors import HostError
from initrd.host.command.protocol import CommandProtocol, LocalStreams
from initrd.host.machine.launch import Launch
from initrd.host.machine.run import HostStreams, RunningMachine, start_machine
from initrd.host.qemu.console import (
    explain_boot_failure,
    explain_oom_kill,
    explain_refusal,
    save_console_log,
)
from initrd.host.system.loop import Loop

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_SWITCHED_OFF = "the machine was switched off before the command ended"
_KILLED = 128 + signal.SIGKILL
_DELIVERY = 1.0  # seconds for messages to be read that were sent before the machine ended


class CommandSession:
    """A machine in which a command runs."""

    def __init__(self, launch: Launch, machine: RunningMachine, guest: CommandProtocol) -> None:
        self.machine, self.guest = machine, guest
        self._launch = launch

    @property
    def finished(self) -> bool:
        """Whether nothing more will come from the guest."""
        return self.guest.finished or self.machine.is_off

    def wait(self, until: "Callable[[], bool]", seconds: float | None = None) -> bool:
        """Wait for the end of the command, or `until`; return False when `seconds` pass before."""
        return self.machine.loop.run(lambda: self.finished or until(), seconds)

    def status(self, warn: "Callable[[str], object]") -> int:
        """Return the exit status of the command; `warn` of an out-of-memory kill.

        Raises HostError when there is no status.
        """
        self.machine.loop.run(lambda: self.guest.finished, 0 if self.guest.finished else _DELIVERY)
        if self.guest.final is None:
            raise self._make_error(self._find_failure())
        if self.guest.failure:
            raise self._make_error(self.guest.failure)
        if self.guest.refusal:
            raise explain_refusal(self.guest.refusal)
        status = self.guest.status()
        killed = self._oom_kill() if status == _KILLED else ""
        if killed:
            warn(killed)
        if self.guest.output_error and not status:
            # A command with little output ends before the message `closed` reaches the guest.
            raise HostError("the command's output is not all there", self.guest.output_error)
        return status

    def _find_failure(self) -> str:
        """Return why there is no status. A guest that has sent a message did not fail to start."""
        failure = self.machine.ending().failure
        started = self.guest.received_any and not self.machine.log.text
        return _SWITCHED_OFF if started or not failure else failure

    def _oom_kill(self) -> str:
        return explain_oom_kill(self.machine.log.text, self._launch.setup.hardware.memory)

    def _make_error(self, why: str) -> HostError:
        """Return the error for a failed boot, after saving the console's output."""
        memory = self._launch.setup.hardware.memory
        error = explain_boot_failure(why, memory, self._launch.kernel)
        console = self.machine.log.text
        kept = save_console_log(self._launch.logs, console) if console else ""
        where = f" (the guest's console is kept in {kept})" if kept else ""
        return HostError(error.what, error.why + where, error.hint)


@contextmanager
def start_session(
    launch: Launch, local: LocalStreams, loop: Loop, streams: HostStreams
) -> "Iterator[CommandSession]":
    """Start a machine that runs the command of `launch`, with a socket pair for each port."""
    with ExitStack() as stack:
        enter = stack.enter_context
        pairs = [[enter(closing(end)) for end in socket.socketpair()] for _ in launch.setup.ports]
        ports = tuple(qemu_end.fileno() for _, qemu_end in pairs)
        machine = enter(start_machine(launch, loop, streams.replace(ports=ports)))
        for _, qemu_end in pairs:
            qemu_end.close()
        host_ends = (host_end for host_end, _ in pairs)
        guest = CommandProtocol(loop, dict(zip(launch.setup.ports, host_ends, strict=True)), local)
        stack.callback(guest.close)
        yield CommandSession(launch, machine, guest)
        guest.send("bye")
