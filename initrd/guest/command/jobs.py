"""Run several commands for the host, at the same time, until the host ends the machine.

The processes that a command leaves keep running after its end. Does not mount, unmount or power
off: `initrd.guest.command.session` does.
"""

import time

from initrd.command import Command, CommandError, load
from initrd.errors import reason
from initrd.frames import CONTROL, MACHINE
from initrd.guest._syscalls import SIGCHLD, SIGHUP, SIGINT, SIGKILL, SIGTERM, SIGUSR1, SIGUSR2
from initrd.guest.command.channels import ChannelLink, ChannelOutput, ControlChannel, Port
from initrd.guest.command.loop import Loop, SignalReader
from initrd.guest.command.spawn import SpawnError
from initrd.guest.command.streams import Copy, Streams
from initrd.guest.command.supervise import (
    GRACE_PERIOD,
    RunningCommand,
    format_status,
    stop_processes,
)
from initrd.guest.failure import BootError, CommandRefused, describe_failure

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from initrd.guest.command.control import Messages
    from initrd.guest.command.processes import Processes
    from initrd.guest.command.spawn import SpawnRequest

    MakeRequest = Callable[[Command, Streams], SpawnRequest]
    # Returns the message with the status of a command that cannot be executed. Raises BootError.
    ReportSpawnError = Callable[[SpawnError, SpawnRequest, Messages], str]

# Ctrl-Alt-Del; and what the reboot, halt and poweroff of busybox send to PID 1.
_ENDING_SIGNALS = (SIGINT, SIGTERM, SIGUSR1, SIGUSR2)
_KILL_ATTEMPTS = 10
# The clock is set when it is behind the host's by more than the first of these, or ahead by more
# than the second, in microseconds. A message may be read late: the clock only seems ahead then.
_BEHIND, _AHEAD = 10_000, 1_000_000
_DELIVERY_TIMEOUT = 10.0  # seconds for the host to take the last output when the machine ends


class Job:
    """One command, from the frame that starts it to the one that reports its end."""

    def __init__(self, number: int, port: Port, processes: "Processes") -> None:
        self._number, self._port, self._processes = number, port, processes
        self._link = ChannelLink(port, number)
        self._control = ControlChannel(self._link.channel(CONTROL))
        self._streams: Streams | None = None
        self._running: RunningCommand | None = None
        self._last_message = ""  # not sent yet
        self._is_reported = False
        # Monotonic time at which it is killed, because the host has closed it before its end.
        self.kill_at: float | None = None
        self.ended = False

    def start(
        self, content: bytes, make_request: "MakeRequest", report_error: "ReportSpawnError"
    ) -> None:
        """Start the command of a command file. A failure becomes the last message of the job."""
        try:
            self._start(load(content), make_request, report_error)
        except CommandError as error:
            self._fail("failed", f"cannot understand the command: {error}")
        except OSError as error:
            self._fail("failed", f"cannot start the command: {reason(error)}")
        except BootError as error:
            word = "refused" if isinstance(error, CommandRefused) else "failed"
            self._fail(word, describe_failure(error))

    def refuse(self, why: str) -> None:
        """Report that the command is not started."""
        self._fail("failed", why)

    def _start(
        self, command: Command, make_request: "MakeRequest", report_error: "ReportSpawnError"
    ) -> None:
        self._streams = Streams(command, self._link, self._control)
        try:
            request = make_request(command, self._streams)
        except BaseException:
            self._streams.close_child_ends()
            raise
        running = RunningCommand(self._control, self._streams, self._processes)
        self._control.on_message = self._on_message
        try:
            running.start(request)
        except SpawnError as failure:
            self._last_message = report_error(failure, request, self._control)
            return
        self._running = running

    def _on_message(self, words: "list[str]") -> None:
        if self._running is None:
            return
        if words == ["kill"]:
            self._kill(self._running)
        else:
            self._running.handle_message(words)

    def _fail(self, word: str, text: str) -> None:
        if self._streams:
            self._streams.close()
        self._control.send(word, text)
        self._is_reported = True

    @property
    def pid(self) -> int:
        """The process ID of the command while it runs; 0 before and after."""
        running = self._running
        return running.pid if running and running.status is None else 0

    def copies(self) -> tuple[Copy, ...]:
        """Return the handlers of its streams."""
        return self._streams.copies() if self._streams else ()

    def set_status(self, status: int) -> None:
        """Record the wait status of the command, which has ended."""
        if self._running:
            self._running.status = status
            self._last_message = format_status(status)
            self._control.send(f"ended {self._last_message}")

    def advance(self) -> None:
        """Go on after events: deliver the last output, report the status, close the channels."""
        if self._control.disconnected:
            self._disconnect()
        elif self._last_message and not self._is_reported:
            self._deliver()
        if self._is_reported and self._control.is_sent:
            self._close()

    def _deliver(self) -> None:
        """Deliver what the command has written, then send its status."""
        streams = self._streams
        if streams is None:
            raise ValueError("a status without streams")
        streams.end_inputs()
        streams.close_slave()
        outputs = streams.outputs.values()
        for output in outputs:
            if isinstance(output, ChannelOutput):
                output.finish()
        if all(output.ended for output in outputs):
            streams.close()
            self._control.send(self._last_message)
            self._is_reported = True

    def _disconnect(self) -> None:
        """Close the streams. A command that still runs gets SIGHUP and has the grace period."""
        running = self._running
        if self.kill_at is None:
            if self._streams:
                self._streams.close()
            if running is None or running.status is not None:
                self.ended = True
                return
            running.forward_signal(SIGHUP)
            self.kill_at = time.monotonic() + GRACE_PERIOD
        if running and (running.status is not None or time.monotonic() >= self.kill_at):
            self._kill(running)
            self.ended = True

    def _kill(self, running: RunningCommand) -> None:
        """Kill all processes of the command's session; its own process group at once."""
        if running.status is None:
            self._processes.signal(-running.pid, SIGKILL)
        for _ in range(_KILL_ATTEMPTS):  # a process may fork while others are killed
            if not self._processes.signal_session(running.pid, SIGKILL):
                return

    def _close(self) -> None:
        self._port.close_command(self._number)
        self.ended = True


class JobServer:
    """Starts a job for each frame RUN."""

    def __init__(
        self,
        fd: int,
        processes: "Processes",
        make_request: "MakeRequest",
        report_error: "ReportSpawnError",
    ) -> None:
        """`fd`: the port, non-blocking; both sides have agreed to send frames only."""
        self._port = Port(fd)
        self._port.on_run, self._port.on_error = self._run, self._on_port_error
        self._machine = ControlChannel(self._port.open_channel(MACHINE, CONTROL))
        self._machine.on_message = self._on_message
        self._machine.on_time = self._on_time
        self.set_clock: Callable[[int], None] = lambda _microseconds: None  # since 1970
        self._has_set_clock = False
        self._processes = processes
        self._make_request, self._report_error = make_request, report_error
        self._loop = Loop()
        self._signals = SignalReader(processes.receive_signals(), self._on_signal)
        self._jobs: list[Job] = []
        self._stop_requested = False
        self._set_handlers()

    def serve(self) -> None:
        """Run commands until the host asks for the end or disconnects; then stop all processes."""
        import gc  # noqa: PLC0415 - a boot with one command does without

        gc.enable()  # a job has reference cycles, and there may be many jobs
        while not self._is_over():
            self._serve_until_kill(self._next_kill())
        stop_processes(self._processes, self._loop, self._machine)
        self._loop.run(self._is_delivered, _DELIVERY_TIMEOUT)

    def _serve_until_kill(self, time_of_kill: float | None) -> None:
        """Serve until this monotonic time, or until another one is the next."""
        seconds = None if time_of_kill is None else max(0.0, time_of_kill - time.monotonic())
        self._loop.run(lambda: self._is_over() or self._next_kill() != time_of_kill, seconds)

    def finish(self, message: str, text: str = "") -> None:
        """Send the machine's last message; wait until the host has read it."""
        self._machine.send(message, text)
        self._loop.run(
            lambda: self._port.disconnected or self._machine.bye_received, _DELIVERY_TIMEOUT
        )

    def _is_over(self) -> bool:
        self._advance()
        return self._stop_requested or self._port.disconnected

    def _is_delivered(self) -> bool:
        self._advance()
        return not self._jobs or self._port.disconnected

    def _advance(self) -> None:
        for job in self._jobs:
            job.advance()
        if any(job.ended for job in self._jobs):
            self._jobs = [job for job in self._jobs if not job.ended]
            self._set_handlers()

    def _set_handlers(self) -> None:
        copies = [copy for job in self._jobs for copy in job.copies()]
        self._loop.handlers[:] = [self._port, self._signals, *copies]

    def _next_kill(self) -> float | None:
        """Return the monotonic time at which the next job is to be killed; None if none is."""
        times = [job.kill_at for job in self._jobs if job.kill_at is not None]
        return min(times) if times else None

    def _run(self, number: int, content: bytes) -> None:
        job = Job(number, self._port, self._processes)
        if self._stop_requested:
            job.refuse("the machine is about to end")
        else:
            job.start(content, self._make_request, self._report_error)
        self._jobs.append(job)
        self._set_handlers()

    def _on_message(self, words: "list[str]") -> None:
        if words == ["stop"]:
            self._stop_requested = True

    def _on_time(self, microseconds: int) -> None:
        """Set the clock to the host's time, if it is wrong: commands may be running."""
        behind = microseconds - time.time_ns() // 1000
        if not self._has_set_clock or behind > _BEHIND or behind < -_AHEAD:
            self._has_set_clock = True
            self.set_clock(microseconds)

    def _on_port_error(self, why: str) -> None:
        self._machine.send("failed", f"the guest cannot understand the host: {why}")
        self._stop_requested = True

    def _on_signal(self, number: int) -> None:
        if number == SIGCHLD:
            self._reap()
        elif number in _ENDING_SIGNALS:
            self._stop_requested = True

    def _reap(self) -> None:
        jobs = {job.pid: job for job in self._jobs if job.pid}
        for pid, status in self._processes.reap():
            if pid in jobs:
                jobs.pop(pid).set_status(status)
