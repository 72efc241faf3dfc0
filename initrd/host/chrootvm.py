"""chrootvm: boots a directory and runs something in it. The program, told as a story."""

import os
import signal
from contextlib import ExitStack, closing

from initrd import __version__
from initrd.errors import HostError
from initrd.host.command.interactive import TIMED_OUT, run_command
from initrd.host.machine.cli import Arguments, parse, usage
from initrd.host.machine.config import (
    command_terminals,
    parse_command,
    parse_machine,
    parse_seconds,
)
from initrd.host.machine.launch import Launch, format_commands, plan_launch
from initrd.host.machine.run import (
    PHASE_END,
    BootObserver,
    Connections,
    RunningMachine,
    start_machine,
)
from initrd.host.qemu.console import explain_boot_failure
from initrd.host.system.loop import Loop, Signals, die_of_signal
from initrd.host.system.process import shortage
from initrd.host.system.stream import Relay, Sink, open_source
from initrd.host.system.terminal import (
    STDERR,
    STDIN,
    STDOUT,
    MessageWriter,
    RawTerminal,
    is_terminal,
    print_output,
)

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
        MessageWriter().say(str(error))
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
        print_output(usage() if arguments.has("--help") else f"chrootvm {__version__}")
        return 0
    return run(arguments)


def run(arguments: Arguments) -> int:
    """Do what was asked for; return the exit status."""
    seconds = parse_seconds(arguments.value("--timeout")) if arguments.has("--timeout") else None
    command = parse_command(arguments, os.environ, command_terminals())
    machine = parse_machine(arguments).replace(command=command)
    if arguments.has("--doctor"):
        from initrd.host.doctor import doctor  # noqa: PLC0415 - seldom needed

        return doctor(machine, os.environ)
    launch = plan_launch(machine, os.environ)
    verbose = arguments.has("--verbose")
    if arguments.has("--dry-run"):
        print_output(format_commands(launch))
        return 0
    if verbose:
        MessageWriter().write_bytes(os.fsencode(f"{format_commands(launch)}\n"))
    with ExitStack() as stack:
        watch = BootObserver()
        if arguments.has("--report"):
            from initrd.host.report.report import report_at_end  # noqa: PLC0415 - seldom needed

            watch = stack.enter_context(report_at_end(arguments.values("--report"), launch))
        if command is not None:
            return run_command(command, launch, seconds, watch, verbose=verbose)
        return boot(launch, seconds, watch, verbose=verbose)


def boot(launch: Launch, seconds: float | None, watch: BootObserver, *, verbose: bool) -> int:
    """Boot a machine with its console here; return the exit status."""
    loop, voice = Loop(), MessageWriter()
    with Signals(loop) as signals, closing(Sink(STDOUT)) as output:
        streams = Connections(output=output, menu=is_terminal(STDIN), watch=watch)
        streams = streams.replace(hear=voice.write_bytes) if verbose else streams
        with start_machine(launch, loop, streams) as machine:
            over = attend(machine, signals, seconds)
            watch.mark(PHASE_END)
            status = judge(machine, launch) if over else TIMED_OUT
    if signals.received:
        die_of_signal(signals.received)
    if not over:
        voice.say(f"the machine still runs after {seconds:g} s; ending it")
    return status


def attend(machine: RunningMachine, signals: Signals, seconds: float | None) -> bool:
    """Let the user and the guest talk until one of them ends; return False when time is up."""
    with ExitStack() as stack:
        if is_terminal(STDIN):
            stack.enter_context(RawTerminal(STDIN))
        keyboard = stack.enter_context(closing(Sink(machine.console.fileno())))
        stack.callback(Relay(machine.loop, stack.enter_context(open_source(STDIN)), keyboard).stop)
        return machine.loop.run(lambda: machine.over or bool(signals.received), seconds)


def judge(machine: RunningMachine, launch: Launch) -> int:
    """Return the exit status for a machine that is off. Raises HostError when the boot failed."""
    if not machine.over:  # a signal came first
        return FAILED
    ending = machine.ending()
    if ending.failure:
        raise explain_boot_failure(ending.failure, launch.hardware.memory, launch.kernel)
    return ending.status if ending.status >= 0 else 128 - ending.status
