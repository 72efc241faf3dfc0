"""chrootvm ROOTFS -- COMMAND, at the user's end: terminal, signals, standard streams."""

import signal
from contextlib import ExitStack, closing

from initrd.command import Command
from initrd.host.command.protocol import LocalStreams
from initrd.host.command.session import CommandSession, start_session
from initrd.host.machine.launch import Launch
from initrd.host.machine.run import PHASE_COMMAND, PHASE_END, BootObserver, Connections
from initrd.host.system import terminal
from initrd.host.system.loop import ENDING, Loop, Signals, die_of_signal
from initrd.host.system.stream import Sink, open_source
from initrd.host.system.terminal import STDERR, STDIN, STDOUT, MessageWriter

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

TIMED_OUT = 124  # exit status
_LOOK = 0.2  # seconds, in the background, until we look where we are
_ENOUGH = 3  # signals that ask to end: then it ends, whatever the command makes of them
_FORWARDED = (*ENDING, signal.SIGUSR1, signal.SIGUSR2)


class InteractiveUser:
    """Whoever called us: types, resizes the window, sends signals, loses patience."""

    def __init__(
        self,
        talk: CommandSession,
        command: Command,
        enter: "Callable[[], object]",
        watch: BootObserver,
    ) -> None:
        self._talk, self._command, self._enter = talk, command, enter
        self._watch = watch
        self._asked = 0
        self.wants_end = False

    def begin(self) -> None:
        """The command runs: what is typed is for it."""
        self._watch.mark(PHASE_COMMAND)
        if self._command.tty:
            self._enter()
            self._resize()
        self._take_input()

    def signal(self, number: int) -> None:
        """A signal came."""
        if number == signal.SIGWINCH:
            self._resize()
        elif number == signal.SIGCONT:
            self._take_input()
        elif number in _FORWARDED:
            self._forward(number)

    def _forward(self, number: int) -> None:
        self._asked += number in ENDING
        if self._asked >= _ENOUGH or (self._asked and not self._talk.guest.started):
            self.wants_end = True
        self._talk.guest.tell(f"signal {number}")

    def _resize(self) -> None:
        if not self._command.tty or not self._talk.guest.started:
            return
        try:
            size = terminal.size(STDOUT)
        except OSError:  # the terminal has hung up: that is noticed by who reads it
            return
        self._talk.guest.tell("resize {} {}".format(*size))

    def _take_input(self) -> None:
        """Read standard input, unless that would stop us: a job in the background may not.

        A shell does not tell a running job that it is in the foreground now.
        """
        if not self._talk.guest.started:
            return
        if terminal.in_foreground(STDIN):
            self._talk.machine.loop.set_timer(None, self._take_input)
            self._talk.guest.take_input()
        else:
            self._talk.machine.loop.set_timer(_LOOK, self._take_input)


def run_command(
    command: Command, launch: Launch, seconds: float | None, watch: BootObserver, *, verbose: bool
) -> int:
    """Run a command in a machine; return the exit status. Raises HostError."""
    loop, voice = Loop(), MessageWriter()
    with ExitStack() as stack:
        enter = stack.enter_context
        signals = enter(Signals(loop))
        out, err, log = (enter(closing(Sink(number))) for number in (STDOUT, STDERR, STDERR))
        ends = LocalStreams(enter(open_source(STDIN)), out, err, warn=voice.say)
        streams = Connections(watch=watch)
        streams = streams.replace(output=log, hear=voice.write_bytes) if verbose else streams
        talk = enter(start_session(launch, command.ports, ends, loop, streams))
        user = InteractiveUser(talk, command, lambda: enter(voice.raw()), watch)
        signals.call, talk.guest.on_start = user.signal, user.begin
        over = talk.wait(lambda: user.wants_end, seconds)
        watch.mark(PHASE_END)
        status = None if user.wants_end or not over else talk.status(voice.say)
    if user.wants_end:
        die_of_signal(signals.received)
    if status is None:
        voice.say(f"the command still runs after {seconds:g} s; ending it")
    return TIMED_OUT if status is None else status
