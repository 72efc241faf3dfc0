"""chrootvm: boots a directory and runs something in it. The program, told as a story."""

import os
import signal
from contextlib import ExitStack, closing

from initrd import __version__
from initrd.host.arguments import Arguments, parse, usage
from initrd.host.commanded import command_of, terminals
from initrd.host.dryrun import commands
from initrd.host.explain import explain
from initrd.host.failure import HostError, shortage
from initrd.host.launch import Launch, plan
from initrd.host.loop import Loop
from initrd.host.relay import Relay
from initrd.host.run import Running, Streams, running
from initrd.host.session import TIMED_OUT, run_command
from initrd.host.signals import Signals, die_of
from initrd.host.stream import Sink, source
from initrd.host.terminal import RawTerminal, is_terminal
from initrd.host.voice import STDERR, STDIN, STDOUT, Voice, show
from initrd.host.watch import END, Watch
from initrd.host.wishes import machine_of, seconds_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

FAILED = 125  # exit status


def main(words: "Sequence[str]") -> int:
    """Run chrootvm with the words after its name; return its exit status."""
    open_standard_streams()
    receive_signals()
    try:
        with shortage():
            return answer(parse(words))
    except HostError as error:
        Voice().say(str(error))
        return FAILED


def open_standard_streams() -> None:
    """Open those of 0, 1, 2 that are closed, or a file of ours would be taken for one of them."""
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= STDERR:
        os.set_inheritable(descriptor, True)
    os.close(descriptor)


def receive_signals() -> None:
    """Undo what we may have inherited, and what Python would do with a Ctrl-C: a traceback."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # ignored, the end of a program would be lost
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)


def answer(arguments: Arguments) -> int:
    """Answer a question about ourselves, or do what was asked for; return the exit status."""
    if arguments.has("--help") or arguments.has("--version"):
        show(usage() if arguments.has("--help") else f"chrootvm {__version__}")
        return 0
    return run(arguments)


def run(arguments: Arguments) -> int:
    """Do what was asked for; return the exit status."""
    seconds = seconds_of(arguments.value("--timeout")) if arguments.has("--timeout") else None
    command = command_of(arguments, os.environ, terminals())
    machine = machine_of(arguments).replace(command=command)
    if arguments.has("--doctor"):
        from initrd.host.doctor import doctor  # noqa: PLC0415 - seldom needed

        return doctor(machine, os.environ)
    launch = plan(machine, os.environ)
    verbose = arguments.has("--verbose")
    if arguments.has("--dry-run"):
        show(commands(launch))
        return 0
    if verbose:
        Voice().pass_on(os.fsencode(f"{commands(launch)}\n"))
    with ExitStack() as stack:
        watch = Watch()
        if arguments.has("--report"):
            from initrd.host.report import reporting  # noqa: PLC0415 - seldom needed

            watch = stack.enter_context(reporting(arguments.values("--report"), launch))
        if command is not None:
            return run_command(command, launch, seconds, watch, verbose=verbose)
        return boot(launch, seconds, watch, verbose=verbose)


def boot(launch: Launch, seconds: float | None, watch: Watch, *, verbose: bool) -> int:
    """Boot a machine with its console here; return the exit status."""
    loop, voice = Loop(), Voice()
    with Signals(loop) as signals, closing(Sink(STDOUT)) as output:
        streams = Streams(output=output, menu=is_terminal(STDIN), watch=watch)
        streams = streams.replace(hear=voice.pass_on) if verbose else streams
        with running(launch, loop, streams) as machine:
            over = attend(machine, signals, seconds)
            watch.mark(END)
            status = judge(machine, launch) if over else TIMED_OUT
    if signals.received:
        die_of(signals.received)
    if not over:
        voice.say(f"the machine still runs after {seconds:g} s; ending it")
    return status


def attend(machine: Running, signals: Signals, seconds: float | None) -> bool:
    """Let the user and the guest talk until one of them ends; return False when time is up."""
    with ExitStack() as stack:
        if is_terminal(STDIN):
            stack.enter_context(RawTerminal(STDIN))
        keyboard = stack.enter_context(closing(Sink(machine.console.fileno())))
        stack.callback(Relay(machine.loop, stack.enter_context(source(STDIN)), keyboard).stop)
        return machine.loop.run(lambda: machine.over or bool(signals.received), seconds)


def judge(machine: Running, launch: Launch) -> int:
    """Return the exit status for a machine that is off. Raises HostError when the boot failed."""
    if not machine.over:  # a signal came first
        return FAILED
    ending = machine.ending()
    if ending.failure:
        raise explain(ending.failure, launch.hardware.memory, launch.kernel)
    return ending.status if ending.status >= 0 else 128 - ending.status
