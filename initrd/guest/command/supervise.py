"""Supervise the command as PID 1: copy its streams, forward signals, reap, stop other processes.

Does not mount, unmount or power off: `initrd.guest.command.session` does. Acts on processes only
through the `Processes` object that it is given.
"""

import posix as os

from initrd.guest._syscalls import SIGCHLD, SIGCONT, SIGHUP, SIGKILL, SIGTERM
from initrd.guest.command.loop import JOB_SIGNALS, UNFORWARDED_SIGNALS, Loop, SignalReader
from initrd.text import parse_natural

TYPE_CHECKING = False
if TYPE_CHECKING:
    from initrd.guest.command.control import ControlPort, Messages
    from initrd.guest.command.processes import Processes
    from initrd.guest.command.spawn import SpawnRequest
    from initrd.guest.command.streams import Streams

GRACE_PERIOD = 5.0  # seconds between SIGTERM and SIGKILL, and for SIGKILL to have its effect
_KILL_INTERVAL = 0.5  # seconds between two SIGKILL to all processes


def format_status(status: int) -> str:
    """Return the message that reports a wait status."""
    if os.WIFSIGNALED(status):
        return f"signal {os.WTERMSIG(status)}"
    return f"exit {os.WEXITSTATUS(status)}"


class RunningCommand:
    """A command: its process, its streams, and the messages from the host about it."""

    def __init__(self, control: "Messages", streams: "Streams", processes: "Processes") -> None:
        self._control, self._streams, self._processes = control, streams, processes
        self.pid = 0  # 0: it was not started
        self.status: int | None = None  # of wait(2); None: it has not ended
        control.on_message = self.handle_message

    def start(self, request: "SpawnRequest") -> None:
        """Start the command. Raises SpawnError or OSError if it cannot be started."""
        try:
            self.pid = self._processes.start(request)
        finally:
            self._streams.close_child_ends()
        self._control.send("started")

    def forward_signal(self, number: int) -> None:
        """Send a signal to the command; a terminal's signals go to its whole process group."""
        if self.status is None and self.pid > 1:
            pid = -self.pid if number in JOB_SIGNALS else self.pid
            self._processes.signal(pid, number)

    def handle_message(self, words: "list[str]") -> None:
        """Act on a message from the host. Ignores unknown and malformed messages."""
        numbers = [number for word in words if (number := parse_natural(word)) is not None]
        if words[0] == "eof" and len(words) == 3 and len(numbers) == 1:
            self._streams.end_input(words[1], numbers[0])
        elif words[0] == "closed" and len(words) == 2:
            self._streams.close_output(words[1])
        elif words[0] == "resize" and len(words) == 3 and len(numbers) == 2:
            self._streams.resize(*numbers)
        elif words[0] == "signal" and len(words) == 2 and len(numbers) == 1 and 0 < numbers[0] < 65:
            self.forward_signal(numbers[0])


def stop_processes(processes: "Processes", loop: Loop, control: "Messages") -> None:
    """End all other processes: by SIGTERM, and after the grace period by SIGKILL."""

    def none_left() -> bool:
        return not processes.has_others()

    if none_left():
        return
    processes.signal_others(SIGTERM)
    processes.signal_others(SIGCONT)  # a stopped process acts on SIGTERM only then
    if loop.run(none_left, GRACE_PERIOD):
        return
    for _ in range(int(GRACE_PERIOD / _KILL_INTERVAL)):
        processes.signal_others(SIGKILL)
        if loop.run(none_left, _KILL_INTERVAL):
            return
    control.send("warning", "a process does not end, not even when killed")


class Supervisor:
    """Runs one command to its end, and stops the processes that it leaves."""

    def __init__(self, control: "ControlPort", streams: "Streams", processes: "Processes") -> None:
        self._control, self._streams, self._processes = control, streams, processes
        self._command = RunningCommand(control, streams, processes)
        self._loop = Loop()
        signals = SignalReader(processes.receive_signals(), self._on_signal)
        self._loop.handlers += [control, signals, *streams.copies()]

    def run(self, request: "SpawnRequest") -> str:
        """Run the command; return the message that reports its status.

        Raises SpawnError or OSError if the command cannot be started.
        """
        command = self._command
        try:
            command.start(request)
        finally:
            self._control.handle_early()
        self._loop.run(lambda: command.status is not None or self._control.disconnected)
        if self._control.disconnected:
            command.forward_signal(SIGHUP)
            self._loop.run(lambda: command.status is not None, GRACE_PERIOD)
        self.finish()
        return format_status(command.status) if command.status is not None else f"signal {SIGHUP}"

    def finish(self) -> None:
        """Stop the remaining processes, and deliver the remaining output."""
        self._streams.end_inputs()
        stop_processes(self._processes, self._loop, self._control)
        self._drain()

    def _drain(self) -> None:
        """Deliver the remaining output, at the speed of the host."""
        self._streams.close_slave()
        if self._processes.has_others():  # a process that SIGKILL does not end may hold a stream
            self._loop.run(self._outputs_ended, _KILL_INTERVAL)
        elif self._processes.has_exempt():
            self._drain_until_idle()
        else:
            self._loop.run(self._outputs_ended_or_disconnected)
        for copy in self._streams.copies():
            copy.end()

    def _drain_until_idle(self) -> None:
        """Deliver output until no more comes: an exempt process may hold a stream open for ever."""
        outputs = self._streams.outputs.values()
        while not self._outputs_ended_or_disconnected():
            before = sum(copy.received for copy in outputs)
            self._loop.run(self._outputs_ended_or_disconnected, _KILL_INTERVAL)
            received = sum(copy.received for copy in outputs) - before
            if not received and not any(copy.has_pending for copy in outputs):  # pending: slow host
                return

    def _outputs_ended(self) -> bool:
        return all(copy.ended for copy in self._streams.outputs.values())

    def _outputs_ended_or_disconnected(self) -> bool:
        return self._outputs_ended() or self._control.disconnected

    def _on_signal(self, number: int) -> None:
        if number == SIGCHLD:
            self._reap()
        elif number not in UNFORWARDED_SIGNALS:
            self._command.forward_signal(number)

    def _reap(self) -> None:
        command = self._command
        for pid, status in self._processes.reap():
            if pid == command.pid and command.status is None:  # the kernel may reuse the process ID
                command.status = status
