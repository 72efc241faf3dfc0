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
from initrd.record import Record

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

    @property
    def ends_machine(self) -> bool:
        """Whether the machine is to end, with or without the command."""
        return self.end_requested or self.escape.is_complete

    def connect(self, signals: Signals) -> None:
        """Receive the signals of this process, the start of the command, and its input."""
        signals.on_signal = self.handle_signal
        self._session.guest.on_start = self.handle_start
        self._session.guest.on_input = self.handle_input

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


class CommandEnd(Record):
    """How the wait for a command has ended."""

    status: int | None = None  # None: the command was not waited for, or not to its end
    has_started: bool = False
    is_requested: bool = False  # by signals to this process
    is_escaped: bool = False  # by Ctrl-]


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
        gdb_commands: list[str] = []

        def report_gdb(text: str) -> None:
            messages.print_message(text)
            gdb_commands.append(text)

        limit = Limit(deadline.remaining(), lambda: bool(signals.received))
        streams = HostStreams(observer=observer, limit=limit, on_waiting=report_gdb)
        if verbose:
            streams = streams.replace(
                output=log, on_stderr=messages.print_output_of, on_note=messages.print_message
            )
        try:
            session = enter(open_session(local, loop, streams))
        except Cancelled:
            end = CommandEnd(is_requested=bool(signals.received))
        else:

            def enter_raw_mode() -> terminal.RawTerminal:
                if verbose:
                    print_escape_key(messages, session.ended_by_escape)
                return enter(messages.raw())

            user = InteractiveUser(session, command, enter_raw_mode, observer)
            user.connect(signals)
            if gdb_commands:
                deadline.activity = "the machine was waiting for gdb, or booting"
            end = wait_for_command(session, user, deadline, observer, messages)
    return report_end(end, signals.received, deadline)


def wait_for_command(
    session: "Session",
    user: InteractiveUser,
    deadline: Deadline,
    observer: BootObserver,
    messages: MessageWriter,
) -> CommandEnd:
    """Wait until the command ends, the user ends it, or the time is over. Raises HostError."""
    deadline.leave_to_loop()
    in_time = session.wait(lambda: user.ends_machine, deadline.remaining())
    has_started = session.guest.started
    observer.phase_started(PHASE_END)
    is_requested = user.end_requested
    status = None
    if in_time and not user.ends_machine:
        status = session.status(messages.print_message)
    if status is None:
        session.kill()
    return CommandEnd(status, has_started, is_requested, user.escape.is_complete)


def report_end(end: CommandEnd, number: int, deadline: Deadline) -> int:
    """Print why the command has no status of its own; return the exit status.

    `number`: of the signal that has ended the machine, which ends this process, too.
    """
    if end.is_requested:
        die_of_signal(number)
    if end.is_escaped:
        report_keys(MessageWriter(), terminal.ESCAPE_KEYS)
        return ESCAPED
    if end.status is None:
        MessageWriter().print_message(explain_time_up(deadline, has_started=end.has_started))
        return TIMED_OUT
    return end.status


def explain_time_up(deadline: Deadline, *, has_started: bool) -> str:
    """Return the message that the time of a command is over."""
    if not has_started:
        return deadline.explain("the command had not started")
    deadline.activity = ""
    return f"{deadline.explain('the command still runs')}; ending it"
