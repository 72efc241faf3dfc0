"""PID 1 while a command runs: streams, signals, reaping; and the end of everything else after it.

Decides nothing about the machine: `initrd.guest.command.session` does that. Touches processes only
through the objects that it is given.
"""

import posix as os

from initrd.guest._syscalls import SIGCHLD, SIGCONT, SIGHUP, SIGKILL, SIGTERM
from initrd.guest.command.loop import JOB_SIGNALS, OWN_SIGNALS, Loop, Signals
from initrd.text import parse_natural

TYPE_CHECKING = False
if TYPE_CHECKING:
    from initrd.guest.command.control import ControlPort
    from initrd.guest.command.processes import Processes
    from initrd.guest.command.spawn import SpawnRequest
    from initrd.guest.command.streams import Streams

GRACE = 5.0  # seconds between SIGTERM and SIGKILL
_KILL_AGAIN = 0.5  # seconds; and as often as this fits into GRACE


def status_message(status: int) -> str:
    """Return the message that reports a wait status."""
    if os.WIFSIGNALED(status):
        return f"signal {os.WTERMSIG(status)}"
    return f"exit {os.WEXITSTATUS(status)}"


class Supervisor:
    """Runs one command to its end, and stops what it leaves."""

    def __init__(self, host: "ControlPort", streams: "Streams", processes: "Processes") -> None:
        self._host, self._streams, self._processes = host, streams, processes
        self._loop = Loop()
        signals = Signals(processes.receive_signals(), self._on_signal)
        self._loop.watchers += [host, signals, *streams.copies()]
        self._pid = 0
        self._status: int | None = None
        host.on_message = self._on_message

    def run(self, what: "SpawnRequest") -> str:
        """Run the command; return the message that reports how it ended.

        Raises NotStarted or OSError when it cannot be started.
        """
        try:
            self._pid = self._processes.start(what)
        finally:
            self._streams.close_child_ends()
        self._host.send("started")
        self._loop.run(lambda: self._status is not None or self._host.gone)
        if self._host.gone:
            self._pass_on(SIGHUP)
            self._loop.run(lambda: self._status is not None, GRACE)
        self.finish()
        return status_message(self._status) if self._status is not None else f"signal {SIGHUP}"

    def finish(self) -> None:
        """Stop what is left of the command, and deliver what it has written."""
        self._streams.end_inputs()
        self._stop_others()
        self._drain()

    def _drain(self) -> None:
        """Deliver what the command has written, however slowly the host takes it."""
        self._streams.finish()
        if self._processes.any_left():  # one that even SIGKILL cannot end may hold a stream open
            self._loop.run(self._all_ended, _KILL_AGAIN)
        elif self._processes.any_exempt():
            self._drain_what_comes()
        else:
            self._loop.run(lambda: self._all_ended() or self._host.gone)
        for pump in self._streams.copies():
            pump.end()

    def _drain_what_comes(self) -> None:
        """Deliver until nothing more comes: who is spared may hold a stream open for ever."""
        outputs = self._streams.outputs.values()
        while not (self._all_ended() or self._host.gone):
            before = sum(pump.received for pump in outputs)
            self._loop.run(lambda: self._all_ended() or self._host.gone, _KILL_AGAIN)
            came = sum(pump.received for pump in outputs) - before
            if not came and not any(pump.pending for pump in outputs):  # else the host is slow
                return

    def _all_ended(self) -> bool:
        return all(pump.ended for pump in self._streams.outputs.values())

    def _stop_others(self) -> None:
        if not self._processes.any_left():
            return
        self._processes.signal_others(SIGTERM)
        self._processes.signal_others(SIGCONT)  # a stopped process cannot end otherwise
        if self._loop.run(self._alone, GRACE):
            return
        for _ in range(int(GRACE / _KILL_AGAIN)):
            self._processes.signal_others(SIGKILL)
            if self._loop.run(self._alone, _KILL_AGAIN):
                return
        self._host.send("warning", "a process does not end, not even when killed")

    def _alone(self) -> bool:
        return not self._processes.any_left()

    def _on_signal(self, number: int) -> None:
        if number == SIGCHLD:
            self._reap()
        elif number not in OWN_SIGNALS:
            self._pass_on(number)

    def _reap(self) -> None:
        for pid, status in self._processes.reap():
            if pid == self._pid and self._status is None:  # a number may be used again
                self._status = status

    def _pass_on(self, number: int) -> None:
        """Send the command a signal: its whole job for those that a terminal sends."""
        if self._status is None and self._pid > 1:
            pid = -self._pid if number in JOB_SIGNALS else self._pid
            self._processes.signal(pid, number)

    def _on_message(self, words: "list[str]") -> None:
        """Do what the host asks for. What is not understood is ignored."""
        numbers = [number for word in words if (number := parse_natural(word)) is not None]
        if words[0] == "eof" and len(words) == 3 and len(numbers) == 1:
            self._streams.end_input(words[1], numbers[0])
        elif words[0] == "closed" and len(words) == 2:
            self._streams.close_output(words[1])
        elif words[0] == "resize" and len(words) == 3 and len(numbers) == 2:
            self._streams.resize(*numbers)
        elif words[0] == "signal" and len(words) == 2 and len(numbers) == 1 and 0 < numbers[0] < 65:
            self._pass_on(numbers[0])
