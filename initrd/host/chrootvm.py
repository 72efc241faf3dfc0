"""chrootvm: boot a directory and run a program in it.

The main program: from the words of the command line to the exit status.
"""

import os
import signal
from contextlib import ExitStack, closing, contextmanager
from functools import partial

from initrd import __version__
from initrd.command import Command
from initrd.host.command.interactive import (
    ESCAPED,
    FOREGROUND_CHECK,
    TIMED_OUT,
    print_escape_key,
    report_keys,
    run_command,
)
from initrd.host.command.session import start_session
from initrd.host.machine.cli import (
    WITHOUT_ROOT,
    Arguments,
    check_companions,
    parse,
    parse_seconds,
    usage,
)
from initrd.host.machine.config import command_terminals, parse_command, parse_machine
from initrd.host.machine.launch import Launch, format_commands, plan_launch
from initrd.host.machine.locate import cache_directory
from initrd.host.machine.run import (
    PHASE_END,
    PHASE_KERNEL,
    PHASE_LOAD,
    PHASE_RESUME,
    PHASE_TEMPLATE,
    BootObserver,
    HostStreams,
    RunningMachine,
    start_machine,
)
from initrd.host.machine.traceback_file import explain_mistakes
from initrd.host.qemu.console import (
    Ending,
    KernelPanic,
    explain_failure_of_init,
    keep_console,
)
from initrd.host.qemu.initpanic import ConsoleSink
from initrd.host.system.deadline import Deadline, TimeUp
from initrd.host.system.hosterror import HostError
from initrd.host.system.loop import Loop, Signals, die_of_signal
from initrd.host.system.printable import join_command
from initrd.host.system.process import explain_shortage
from initrd.host.system.stream import KeyboardRelay, Relay, Sink, open_source
from initrd.host.system.terminal import (
    CONSOLE_KEYS,
    END_KEYS,
    ESCAPE_KEYS,
    STDERR,
    STDIN,
    STDOUT,
    ConsoleKeys,
    EscapeKey,
    MessageWriter,
    RawTerminal,
    is_terminal,
    print_output,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

HALTED = "the guest has halted and not switched off (halt -f); its machine was ended"
FAILED, PANICKED = 125, 255  # exit statuses
# What chrootvm does until the machine runs its program, for the message that the time is over.
_PLANNING = "it was finding the files and making the image"
_STARTING = "it was starting QEMU and virtiofsd"
_ACTIVITIES = {
    PHASE_TEMPLATE: "it was making a template",
    PHASE_LOAD: "it was loading the template",
    PHASE_RESUME: "the guest was continuing from the template",
    PHASE_KERNEL: "the guest was booting",
}


def main(words: "Sequence[str]") -> int:
    """Run chrootvm with the words after its name; return its exit status."""
    open_standard_streams()
    reset_signals()
    try:
        with explain_mistakes("chrootvm", os.environ), explain_shortage():
            return run(parse(words))
    except HostError as error:
        MessageWriter().print_error(error)
        return PANICKED if isinstance(error, KernelPanic) else FAILED


def open_standard_streams() -> None:
    """Open those of 0, 1, 2 that are closed: no file opened later may get one of these numbers."""
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= STDERR:
        os.set_inheritable(descriptor, True)
    os.close(descriptor)


def reset_signals() -> None:
    """Reset SIGCHLD, which the caller may ignore, and SIGINT, for which Python has a traceback."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # if ignored, exit statuses are lost
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)


def run(arguments: Arguments) -> int:
    """Run the action that the options select, for at most --timeout; return the exit status."""
    if arguments.has("--help") or arguments.has("--version"):
        text = usage() if arguments.has("--help") else f"chrootvm {__version__}"
        print_output(*text.split("\n"))
        return 0
    seconds = parse_seconds(arguments.value("--timeout")) if arguments.has("--timeout") else None
    deadline = Deadline(seconds)
    try:
        with deadline.enforced():
            return run_action(arguments, deadline)
    except TimeUp:
        MessageWriter().print_message(deadline.explain(describe_delay(arguments)))
        return TIMED_OUT


def describe_delay(arguments: Arguments) -> str:
    """Return what has not happened when the time is over before a program runs."""
    for action in ("--clean-cache", "--doctor", "--dry-run"):
        if arguments.has(action):
            return f"{action} had not ended"
    if arguments.init:
        return "INIT had not started"
    is_command = arguments.command is not None or not arguments.has("--detach")
    return f"the {'command' if is_command else 'machine'} had not started"


def run_action(arguments: Arguments, deadline: Deadline) -> int:
    """Run the action that the options select; return the exit status."""
    if arguments.has("--clean-cache"):
        from initrd.host.machine.cache import clean_cache  # noqa: PLC0415 - seldom needed

        clean_cache(cache_directory(os.environ))
        return 0
    if arguments.given.keys() & WITHOUT_ROOT:
        from initrd.host.named import run_named_action  # noqa: PLC0415 - seldom needed

        return run_named_action(arguments, deadline)
    return run_in_new_machine(arguments, deadline)


def run_in_new_machine(arguments: Arguments, deadline: Deadline) -> int:
    """Boot a machine, or print what would be done; return the exit status."""
    check_companions(arguments)
    deadline.activity = _PLANNING
    command = parse_command(arguments, os.environ, command_terminals())
    if arguments.has("--name"):
        from initrd.host.named import run_named  # noqa: PLC0415 - seldom needed

        return run_named(arguments, command, deadline)
    machine = parse_machine(arguments, command)
    if arguments.has("--doctor"):
        from initrd.host.doctor import doctor  # noqa: PLC0415 - seldom needed

        deadline.activity = ""
        return doctor(machine, os.environ)
    launch = plan_launch(machine, os.environ)
    for warning in launch.warnings:
        MessageWriter().print_message(warning)
    if arguments.has("--dry-run"):
        print_output(*format_commands(launch))
        return 0
    return start(launch, arguments, deadline)


class ActivityObserver(BootObserver):
    """Tells a deadline which phase of the boot has begun, and passes everything on."""

    def __init__(self, deadline: Deadline, observer: BootObserver) -> None:
        self._deadline, self._observer = deadline, observer

    def phase_started(self, name: str) -> None:
        """Handle the beginning of a phase."""
        self._deadline.activity = _ACTIVITIES.get(name, self._deadline.activity)
        self._observer.phase_started(name)

    def console_printed(self, data: bytes) -> None:
        """Handle a piece of console output."""
        self._observer.console_printed(data)


def start(launch: Launch, arguments: Arguments, deadline: Deadline) -> int:
    """Start the machine and run its command, or connect its console; return the exit status."""
    deadline.activity = _STARTING
    verbose = arguments.has("--verbose")
    if verbose:
        MessageWriter().print_lines(*format_commands(launch))
    with ExitStack() as stack:
        observer = BootObserver()
        if arguments.has("--report"):
            from initrd.host.report.report import report_at_end  # noqa: PLC0415 - seldom needed

            observer = stack.enter_context(report_at_end(arguments.values("--report"), launch))
        observer = ActivityObserver(deadline, observer)
        if isinstance(launch.command, Command):
            open_session = partial(start_session, launch)
            return run_command(launch.command, open_session, deadline, observer, verbose=verbose)
        if arguments.has("--warm"):
            MessageWriter().print_message("INIT boots: --warm is for -- COMMAND")
        return boot(launch, arguments, deadline, observer)


def boot(launch: Launch, arguments: Arguments, deadline: Deadline, observer: BootObserver) -> int:
    """Boot a machine with its console on this terminal; return the exit status."""
    loop = Loop()
    with ExitStack() as stack:
        messages = stack.enter_context(closing(MessageWriter(loop)))
        user = ConsoleUser(stack.enter_context(Signals(loop)), messages)
        output = stack.enter_context(closing(open_output(arguments, loop)))
        streams = HostStreams(output=output, observer=observer)
        if arguments.has("--verbose"):
            streams = streams.replace(on_stderr=messages.print_output_of)
        machine = stack.enter_context(start_machine(launch, loop, streams))
        if is_terminal(STDIN) and arguments.has("--verbose"):
            print_escape_key(messages)
        in_time = run_console(machine, output, user, deadline)
        observer.phase_started(PHASE_END)
        is_ended = in_time and not user.ends_machine
        ending = find_ending(machine, launch) if is_ended else None
        if ending and ending.target_ended:
            output.drop_panic()
    status = user.report_end()
    if status is not None:
        return status
    if not in_time:
        deadline.activity = ""
        message = explain_time_up_of_init(deadline, is_off=machine.is_off)
        MessageWriter().print_message(message)
        return TIMED_OUT
    return report_ending(ending, machine, arguments) if ending else FAILED


class ConsoleUser:
    """What ends a machine from outside: keys of its console, and signals to this process."""

    def __init__(self, signals: Signals, messages: MessageWriter) -> None:
        self.signals, self.messages = signals, messages
        self.escape = EscapeKey()
        self.keys = ConsoleKeys(lambda: messages.print_message(CONSOLE_KEYS))

    @property
    def ends_machine(self) -> bool:
        """Whether the machine is to end."""
        return self.escape.is_complete or self.keys.is_complete or bool(self.signals.received)

    def report_end(self) -> int | None:
        """Return the exit status after keys have ended the machine; None if they have not.

        A signal that has ended it ends this process, too.
        """
        if self.signals.received:
            die_of_signal(self.signals.received)
        if self.escape.is_complete:
            report_keys(MessageWriter(), ESCAPE_KEYS)
            return ESCAPED
        if self.keys.is_complete:
            report_keys(MessageWriter(), END_KEYS)
            return 0
        return None


def run_console(
    machine: RunningMachine, output: ConsoleSink, user: ConsoleUser, deadline: Deadline
) -> bool:
    """Connect the console until all is printed or the user ends it; False: the time is over."""

    def is_over() -> bool:
        return user.ends_machine or (machine.is_finished and output.is_written)

    with connect_console(machine, user) as raw:
        if raw:
            user.signals.on_signal = JobControl(machine.loop, raw).handle_signal
        deadline.leave_to_loop()
        in_time = machine.loop.run(is_over, deadline.remaining())
    user.signals.on_signal = lambda _: None
    return in_time


def report_ending(ending: Ending, machine: RunningMachine, arguments: Arguments) -> int:
    """Print what the user has to know about the end of INIT; return the exit status."""
    if machine.has_halted:
        MessageWriter().print_message(HALTED)
    if ending.target_ended:
        MessageWriter().print_message(explain_end_of_init(ending.status, arguments))
    return ending.status if ending.status >= 0 else 128 - ending.status


def open_output(arguments: Arguments, loop: Loop) -> ConsoleSink:
    """Return the sink for the console's output: standard output."""
    shows_all = arguments.has("--verbose") or arguments.has("--debug")
    return ConsoleSink(STDOUT, loop, shows_all=shows_all)


@contextmanager
def connect_console(machine: RunningMachine, user: ConsoleUser) -> "Iterator[RawTerminal | None]":
    """Connect standard input to the console inside the `with`; yield it if it is a terminal."""
    raw = None
    with ExitStack() as stack:
        console = stack.enter_context(closing(Sink(machine.keyboard)))
        source = stack.enter_context(open_source(STDIN))
        if is_terminal(STDIN):
            raw = stack.enter_context(user.messages.raw())
            relay = KeyboardRelay(machine.loop, source, console, user.escape.feed)
            relay.translate = user.keys.translate
            stack.callback(relay.stop)
        else:
            stack.callback(Relay(machine.loop, source, console).stop)
        yield raw


class JobControl:
    """Gives the shell its terminal while this process is stopped, and sets raw mode again."""

    def __init__(self, loop: Loop, raw: RawTerminal) -> None:
        self._loop, self._raw = loop, raw

    def handle_signal(self, number: int) -> None:
        """Handle SIGTSTP and SIGCONT."""
        if number == signal.SIGTSTP:
            self._raw.suspend()
        elif number == signal.SIGCONT:
            self._resume()

    def _resume(self) -> None:
        """Set raw mode, now or as soon as this process is in the foreground."""
        interval = None if self._raw.resume() else FOREGROUND_CHECK
        self._loop.set_timer(interval, self._resume)


def explain_time_up_of_init(deadline: Deadline, *, is_off: bool) -> str:
    """Return the message that the time of INIT is over."""
    if is_off:
        return deadline.explain("the machine has ended, but its output was not all written")
    return f"{deadline.explain('the machine still runs')}; ending it"


def find_ending(machine: RunningMachine, launch: Launch) -> Ending:
    """Return how INIT ended in a machine that is off. Raises HostError when the boot failed."""
    ending = machine.ending()
    if machine.was_terminated:
        raise HostError("the machine has ended", "a signal, or gdb, has ended QEMU")
    if ending.failure:
        error = explain_failure_of_init(ending.failure, launch.setup.hardware.memory, launch.kernel)
        raise keep_console(error, launch.logs, machine.log.text)
    return ending


def explain_end_of_init(status: int, arguments: Arguments) -> str:
    """Return the message that INIT has ended. `status`: its exit status, or -N after signal N."""
    ended = f"ended with status {status}" if status >= 0 else f"was killed by signal {-status}"
    command = join_command(["chrootvm", arguments.root, "--", *arguments.init])
    return (
        f"{arguments.init[0]} {ended}, and INIT must not end; "
        f"a program that is to end goes after --: {command}"
    )
