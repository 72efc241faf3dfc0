"""Runs a command in a machine: the sockets that its ports are, and what happens until it ends."""

import signal
import socket
from contextlib import ExitStack, closing, contextmanager

from initrd.errors import HostError
from initrd.host.command.protocol import CommandProtocol, LocalStreams
from initrd.host.machine.launch import Launch
from initrd.host.machine.run import Connections, RunningMachine, start_machine
from initrd.host.qemu import console
from initrd.host.qemu.console import explain_boot_failure, explain_oom_kill, explain_refusal
from initrd.host.system.loop import Loop

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_SWITCHED_OFF = "the machine was switched off before the command ended"
_KILLED = 128 + signal.SIGKILL
_BETWEEN = 1.0  # seconds for what was said before the machine ended to be read


class CommandSession:
    """A machine in which a command runs."""

    def __init__(self, launch: Launch, machine: RunningMachine, guest: CommandProtocol) -> None:
        self.machine, self.guest = machine, guest
        self._launch = launch

    @property
    def over(self) -> bool:
        """Whether nothing more will come."""
        return self.guest.over or self.machine.over

    def wait(self, until: "Callable[[], bool]", seconds: float | None = None) -> bool:
        """Wait for the end, or for something else; return False when time is up before."""
        return self.machine.loop.run(lambda: self.over or until(), seconds)

    def status(self, say: "Callable[[str], object]") -> int:
        """Return the exit status of the command, and `say` what the guest's kernel did to it.

        Raises HostError when there is no status.
        """
        self.machine.loop.run(lambda: self.guest.over, 0 if self.guest.over else _BETWEEN)
        if self.guest.last is None:
            raise self._explained(self._why_it_ended())
        if self.guest.failure:
            raise self._explained(self.guest.failure)
        if self.guest.refusal:
            raise explain_refusal(self.guest.refusal)
        status = self.guest.status()
        memory = self._out_of_memory() if status == _KILLED else ""
        if memory:
            say(memory)
        if self.guest.lost and not status:  # what writes little ends before it can be told
            raise HostError("the command's output is not all there", self.guest.lost)
        return status

    def _why_it_ended(self) -> str:
        """Return why there is no status. A guest that has said something did not fail to start."""
        failure = self.machine.ending().failure
        silent = self.guest.heard and not self.machine.log.text
        return _SWITCHED_OFF if silent or not failure else failure

    def _out_of_memory(self) -> str:
        return explain_oom_kill(self.machine.log.text, self._launch.hardware.memory)

    def _explained(self, why: str) -> HostError:
        error = explain_boot_failure(why, self._launch.hardware.memory, self._launch.kernel)
        said = self.machine.log.text
        kept = console.save_console_log(self._launch.logs, said) if said else ""
        seen = f" (the guest's console is kept in {kept})" if kept else ""
        return HostError(error.what, error.why + seen, error.hint)


@contextmanager
def start_session(
    launch: Launch, names: tuple[str, ...], ends: LocalStreams, loop: Loop, streams: Connections
) -> "Iterator[CommandSession]":
    """Start a machine that runs a command with ports of these names."""
    with ExitStack() as stack:
        enter = stack.enter_context
        pairs = {name: [enter(closing(end)) for end in socket.socketpair()] for name in names}
        inherited = tuple((name, theirs.fileno()) for name, (_, theirs) in pairs.items())
        machine = enter(start_machine(launch, loop, streams.replace(ports=inherited)))
        for _, theirs in pairs.values():
            theirs.close()
        guest = CommandProtocol(loop, {name: ours for name, (ours, _) in pairs.items()}, ends)
        stack.callback(guest.close)
        yield CommandSession(launch, machine, guest)
        guest.tell("bye")
