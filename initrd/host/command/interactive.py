"""chrootvm ROOTFS -- COMMAND with the caller's terminal, signals and standard streams."""

import signal
from contextlib import ExitStack, closing

from initrd.command import Command
from initrd.host.command.protocol import LocalStreams
from initrd.host.machine.run import PHASE_COMMAND, PHASE_END, BootObserver, HostStreams
from initrd.host.system import terminal
from initrd.host.system.deadline import Deadline
from initrd.host.system.loop import (
    TERMINATING_SIGNALS,
    Cancelled,
    Limit,
    Loop,
    Signals,
    die_of_signal,
)
from initrd.host.system.stream import Sink, open_source
from initrd.host.system.terminal import STDERR, STDIN, STDOUT, MessageWriter

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

    from initrd.host.command.capture import Session

    OpenSession = Callable[[LocalStreams, Loop, HostStreams], AbstractContextManager[Session]]

TIMED_OUT = 124  # exit status
ESCAPED = 128 + signal.SIGKILL  # exit status when Ctrl-] has ended the machine
FOREGROUND_CHECK = 0.2  # seconds between checks whether a background job is in the foreground
_SIGNALS_TO_END = 3  # TERMINATING_SIGNALS after which the machine ends, with or without the command
_FORWARDED = (*TERMINATING_SIGNALS, signal.SIGUSR1, signal.SIGUSR2)


class InteractiveUser:
    """Forwards the caller's input, window size and signals to the command."""

    def __init__(
        self,
        session: "Session",
        command: Command,
        enter_raw_mode: "Callable[[], terminal.RawTerminal]",
        observer: BootObserver,
    ) -> None:
        self._session, self._command = session, command
        self._enter_raw_mode, self._observer = enter_raw_mode, observer
        self._raw: terminal.RawTerminal | None = None
        self._terminating_count = 0  # signals of TERMINATING_SIGNALS received
        self.end_requested = False  # the machine is to end, with or without the command
        self.escape = terminal.EscapeKey()  # ends the machine, too

    def handle_start(self) -> None:
        """Start the input of the command, which has started."""
        self._observer.phase_started(PHASE_COMMAND)
        if self._command.tty:
            self._raw = self._enter_raw_mode()
            self._resize()
        self._start_input()

    def handle_input(self, data: bytes) -> None:
        """Examine a piece of input for the keys that end the machine."""
        if self._command.tty:
            self.escape.feed(data)

    def handle_signal(self, number: int) -> None:
        """Forward a signal that this process has received, or act on it."""
        if number == signal.SIGWINCH:
            self._resize()
        elif number == signal.SIGTSTP:
            if self._raw:
                self._raw.suspend()
        elif number == signal.SIGCONT:
            self._resize()  # SIGWINCH is for the job in the foreground
            self._start_input()
        elif number in _FORWARDED:
            self._forward(number)

    def _forward(self, number: int) -> None:
        self._terminating_count += number in TERMINATING_SIGNALS
        count = self._terminating_count
        if count >= _SIGNALS_TO_END or (count and not self._session.guest.started):
            self.end_requested = True
        self._session.guest.send(f"signal {number}")

    def _resize(self) -> None:
        if not self._command.tty or not self._session.guest.started:
            return
        try:
            size = terminal.terminal_size(STDOUT)
        except OSError:  # the terminal has hung up; the next read of it fails too
            return
        self._session.guest.send("resize {} {}".format(*size))

    def _start_input(self) -> None:
        """Read standard input, unless this process is in the background: reading would stop it.

        A terminal is raw from then on, also after this process was stopped. A running job is not
        notified when the shell moves it to the foreground.
        """
        if not self._session.guest.started:
            return
        loop = self._session.loop
        if terminal.in_foreground(STDIN) and (not self._raw or self._raw.resume()):
            loop.set_timer(None, self._start_input)
            self._session.guest.start_input()
        else:
            loop.set_timer(FOREGROUND_CHECK, self._start_input)


def print_escape_key(messages: MessageWriter, what: str = "the machine") -> None:
    """Tell the user which key ends `what`."""
    messages.print_message(f"Ctrl-] three times within a second ends {what}")


def report_keys(messages: MessageWriter, keys: str) -> None:
    """Tell the user that `keys` have ended the machine."""
    if terminal.is_terminal(STDERR):
        messages.begin_line()
    messages.print_message(f"ended by {keys}")


def run_command(
    command: Command,
    open_session: "OpenSession",
    deadline: Deadline,
    observer: BootObserver,
    *,
    verbose: bool,
) -> int:
    """Run the command of a session; return the exit status. Raises HostError, and TimeUp."""
    loop = Loop()
    with ExitStack() as stack:
        enter = stack.enter_context
        messages = enter(closing(MessageWriter(loop)))
        signals = enter(Signals(loop))
        out, err, log = (enter(closing(Sink(number))) for number in (STDOUT, STDERR, STDERR))
        local = LocalStreams(enter(open_source(STDIN)), out, err, on_warning=messages.print_message)

        def report_gdb(text: str) -> None:
            messages.print_message(text)
            gdb_commands.append(text)

        limit = Limit(deadline.remaining(), lambda: bool(signals.received))
        streams = HostStreams(observer=observer, limit=limit, on_waiting=report_gdb)
        if verbose:
            streams = streams.replace(
                output=log, on_stderr=messages.print_output_of, on_note=messages.print_message
            )
        end_requested, status, session, has_started = False, None, None, False
        gdb_commands: list[str] = []
        escape = terminal.EscapeKey()
        try:
            session = enter(open_session(local, loop, streams))
        except Cancelled:
            end_requested = bool(signals.received)
        else:

            def enter_raw_mode() -> terminal.RawTerminal:
                if verbose:
                    print_escape_key(messages, session.ended_by_escape)
                return enter(messages.raw())

            user = InteractiveUser(session, command, enter_raw_mode, observer)
            signals.on_signal, session.guest.on_start = user.handle_signal, user.handle_start
            session.guest.on_input, escape = user.handle_input, user.escape
            if gdb_commands:
                deadline.activity = "the machine was waiting for gdb, or booting"
            deadline.leave_to_loop()
            in_time = session.wait(
                lambda: user.end_requested or escape.is_complete, deadline.remaining()
            )
            has_started = session.guest.started
            observer.phase_started(PHASE_END)
            end_requested = user.end_requested
            if in_time and not end_requested and not escape.is_complete:
                status = session.status(messages.print_message)
        if session and status is None:
            session.kill()
    if end_requested:
        die_of_signal(signals.received)
    if escape.is_complete:
        report_keys(MessageWriter(), terminal.ESCAPE_KEYS)
        return ESCAPED
    if status is None:
        MessageWriter().print_message(explain_time_up(deadline, has_started=has_started))
    return TIMED_OUT if status is None else status


def explain_time_up(deadline: Deadline, *, has_started: bool) -> str:
    """Return the message that the time of a command is over."""
    if not has_started:
        return deadline.explain("the command had not started")
    deadline.activity = ""
    return f"{deadline.explain('the command still runs')}; ending it"
