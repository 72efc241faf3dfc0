"""Boot a directory in a virtual machine and run a command in it: the Python interface.

It is used like `subprocess.run`:

    from initrd.host import vm

    done = vm.run("/srv/bookworm", ["uname", "-s"], text=True)
    assert (done.status, done.stdout) == (0, "Linux\n")

A machine can also stay, for any number of commands:

    with vm.boot("/srv/bookworm", memory="2G") as machine:
        machine.run(["make", "-C", "/src"], check=True)
        server = machine.popen(["httpd", "-f"])

It uses no terminal, sets no signal handlers and changes no global state: it may be called from any
thread, and from several threads at the same time.
"""

import math
import os
import warnings
from collections import deque
from contextlib import ExitStack, closing, contextmanager
from subprocess import PIPE, CalledProcessError, TimeoutExpired
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from initrd.command import Command, Commands
from initrd.host.command import capture
from initrd.host.command.protocol import LocalStreams
from initrd.host.command.session import start_session
from initrd.host.machine.cli import OPTIONS, Arguments, Option, parse
from initrd.host.machine.config import check_no_settings, parse_command, parse_machine
from initrd.host.machine.launch import Launch, plan_launch
from initrd.host.machine.run import HostStreams
from initrd.host.qemu.console import KernelPanic
from initrd.host.service.client import attach
from initrd.host.service.owner import About, Owner, own_machine
from initrd.host.service.popen import Popen
from initrd.host.service.thread import OwnerThread
from initrd.host.system.hosterror import HostError
from initrd.host.system.loop import Cancelled, Limit, Loop
from initrd.host.system.printable import printable, printable_lines
from initrd.host.system.process import explain_shortage
from initrd.record import Record

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from typing import Self

    from initrd.host.command.capture import File, Session

    Scalar = str | int | float | os.PathLike[str]
    Value = bool | Scalar | Iterable[Scalar] | Mapping[str, Scalar] | None

__all__ = [
    "CommandFailed",
    "Completed",
    "HostError",
    "KernelPanic",
    "Machine",
    "Popen",
    "TimeoutExpired",
    "Vm",
    "boot",
    "run",
]
Word = str | bytes | os.PathLike[str]
Output = TypeVar("Output", str, bytes)
_ENCODING = ("utf-8", "surrogateescape")
# Options of chrootvm that are for its user; for --timeout there is the parameter `timeout`.
_COMMAND_LINE_ONLY = {
    "--help",
    "--version",
    "--clean-cache",
    "--doctor",
    "--dry-run",
    "--verbose",
    "--report",
    "--timeout",
    "--name",
    "--detach",
    "--in",
    "--list",
    "--json",
    "--stop",
    "--gdb",
}
KEYWORDS = {
    option.name.removeprefix("--").replace("-", "_"): option
    for option in OPTIONS
    if option.name not in _COMMAND_LINE_ONLY
}
_JOB_KEYWORDS = {"chdir", "env", "user"}
NAMES = {option.name for option in KEYWORDS.values()}


class CommandFailed(CalledProcessError):
    """A command ended with another status than 0, and `check` is True."""

    def __str__(self) -> str:
        """Return the message of CalledProcessError, and the command's standard error.

        What is not printable is escaped; the attribute `stderr` has it as it is.
        """
        stderr = printable_lines(os.fsdecode(self.stderr or b"").rstrip())
        return super().__str__() + (f"\n{stderr}" if stderr else "")


class Completed(Generic[Output], Record):
    """How a command ended. Output that went to a file of the caller is not included."""

    command: tuple[Word, ...]
    status: int  # exit status; 128+N when signal N ended the command
    stdout: Output
    stderr: Output


class Vm(Record):
    """A directory to boot, and the words of chrootvm's options for it."""

    root: str
    options: tuple[str, ...] = ()

    def run(self, *command: Word, text: bool = True, **keywords: Any) -> Completed[Any]:
        """Run a command in a new machine, with the keywords of `run`. `text` is True by default."""
        __tracebackhide__ = True  # pytest shows the caller's line
        return run(self.root, command, text=text, words=self.options, **keywords)


def run(  # noqa: PLR0913 - the parameters of subprocess.run
    rootfs: "str | os.PathLike[str]",
    command: "Word | Sequence[Word]",
    *,
    stdin: "File" = None,
    input: str | bytes = b"",
    stdout: "File" = None,
    stderr: "File" = None,
    text: bool = False,
    check: bool = False,
    timeout: float | None = None,
    cwd: "str | os.PathLike[str] | None" = None,
    words: "Sequence[str]" = (),
    **options: "Value",
) -> Completed[Any]:
    """Boot `rootfs`, run a command in it, and return how it ended.

    Standard input is `input`, or the content of the file or descriptor `stdin`. Standard output
    and error are returned, or written to the file or descriptor `stdout` and `stderr`. With `text`
    they are str, in UTF-8. `timeout`: seconds for all of it, from the call on. A thread cannot be
    interrupted, so a program or file that does not answer while the machine is planned may hold up
    the call for longer; chrootvm --timeout does not have this limit.

    `options` are those of chrootvm, such as `memory="2G"`, `net=True`, `env={"A": "b"}`,
    `mount={"src": "."}`; `words` are further options, written as on its command line.

    Raises HostError when the machine cannot be started or its boot failed; KernelPanic, which is a
    HostError, when the guest's kernel panics while the command runs; CommandFailed when `check` and
    the status is not 0; subprocess.TimeoutExpired after `timeout` seconds.
    """
    __tracebackhide__ = True
    option_list = [*words, *option_words({"chdir": cwd, **options})]

    @contextmanager
    def open_session(local: LocalStreams, loop: Loop, limit: Limit) -> "Iterator[Session]":
        argv = [os.fsdecode(word) for word in _as_argv(command)]
        launch = plan_command(os.fspath(rootfs), argv, option_list)
        with ExitStack() as stack:
            for descriptor in launch.setup.descriptors:
                stack.callback(os.close, descriptor)
            if limit.remaining() == 0:
                raise Cancelled
            yield stack.enter_context(start_session(launch, local, loop, HostStreams(limit=limit)))

    call = _Call(_as_argv(command), stdin, input, stdout, stderr, text, check, timeout)
    return _capture(open_session, call)


class _Call(Record):
    """The arguments of `run` that are about a command."""

    argv: tuple[Word, ...]
    stdin: "File"
    input: str | bytes
    stdout: "File"
    stderr: "File"
    text: bool
    check: bool
    timeout: float | None


def _as_argv(command: "Word | Sequence[Word]") -> tuple[Word, ...]:
    return (command,) if isinstance(command, (str, bytes, os.PathLike)) else tuple(command)


def _capture(open_session: "capture.OpenSession", call: _Call) -> Completed[Any]:
    """Run the command of a session, and return how it ended."""
    __tracebackhide__ = True
    limit = Limit(_check_timeout(call.timeout))
    data = call.input.encode(*_ENCODING) if isinstance(call.input, str) else call.input
    with explain_shortage(), ExitStack() as stack:
        opened = (
            capture.open_input(call.stdin, data),
            capture.open_output(call.stdout),
            capture.open_output(call.stderr),
        )
        stdin, stdout, stderr = (stack.enter_context(file) for file in opened)
        outcome = capture.capture_command(open_session, stdin, stdout, stderr, limit)
    out, err = (
        data.decode(*_ENCODING) if call.text else data for data in (outcome.stdout, outcome.stderr)
    )
    if outcome.status is None:
        raise TimeoutExpired(call.argv, call.timeout or 0, out, err)
    if call.check and outcome.status:
        raise CommandFailed(outcome.status, call.argv, out, err)
    return Completed(call.argv, outcome.status, out, err)


def _check_timeout(seconds: float | None) -> float | None:
    """Return a time for a call. Raises TypeError, and ValueError for NaN."""
    if seconds is None:
        return None
    if not isinstance(seconds, (int, float)):
        raise TypeError(f"timeout is a number of seconds or None, not {seconds!r}")
    if math.isnan(seconds):
        raise ValueError("timeout is a number of seconds, not NaN")
    return seconds


class Machine:
    """A running machine, in which commands run. Its methods may be called from any thread."""

    def __init__(
        self, owner: OwnerThread, root: str, *, text: bool, warned: "deque[str] | None" = None
    ) -> None:
        """`warned`: to which the owner appends the warnings of the guest."""
        self._owner, self._text = owner, text
        self._warned: deque[str] = deque() if warned is None else warned
        self.root = root

    def run(  # noqa: PLR0913 - the parameters of subprocess.run
        self,
        *command: "Word | Sequence[Word]",
        stdin: "File" = None,
        input: str | bytes = b"",
        stdout: "File" = None,
        stderr: "File" = None,
        text: bool | None = None,
        check: bool = False,
        timeout: float | None = None,
        cwd: "str | os.PathLike[str] | None" = None,
        **options: "Value",
    ) -> Completed[Any]:
        """Run a command, and return how it ended: as the function `run`, without a boot.

        The command is one sequence, or its words. `options` are `env` and `user`. Processes that
        the command leaves keep running.
        """
        __tracebackhide__ = True
        argv = _words_of(command)
        described = parse_job(argv, {"chdir": cwd, **options})
        self._show_warnings()

        @contextmanager
        def open_session(local: LocalStreams, loop: Loop, _: Limit) -> "Iterator[Session]":
            with (
                closing(self._owner.connect()) as connection,
                attach(connection, described, local, loop) as session,
            ):
                yield session

        text = self._text if text is None else text
        call = _Call(argv, stdin, input, stdout, stderr, text, check, timeout)
        return _capture(open_session, call)

    def popen(  # noqa: PLR0913 - the parameters of subprocess.Popen
        self,
        *command: "Word | Sequence[Word]",
        stdin: "File" = PIPE,
        stdout: "File" = PIPE,
        stderr: "File" = PIPE,
        text: bool | None = None,
        terminal: tuple[int, int] | None = None,
        cwd: "str | os.PathLike[str] | None" = None,
        **options: "Value",
    ) -> Popen:
        """Start a command, and return it while it runs.

        `terminal`: its standard streams are a terminal with so many rows and columns. In place of
        PIPE a stream can be a file, a descriptor, or DEVNULL. `options` are `env` and `user`.

        Raises FileNotFoundError or PermissionError if it cannot be executed, and HostError.
        """
        described = parse_job(_words_of(command), {"chdir": cwd, **options})
        if terminal is not None:
            described = described.replace(tty=(0, 1, 2), size=terminal)
        self._show_warnings()
        return Popen(
            self._owner.connect(),
            described,
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            text=self._text if text is None else text,
        )

    def close(self) -> None:
        """End all commands, and the machine. Raises HostError if it had ended by itself."""
        self._owner.close()
        self._show_warnings()
        if self._owner.error:
            raise self._owner.error

    def _show_warnings(self) -> None:
        """Show the guest's warnings. The owner does not: standard error could hold it up."""
        while self._warned:
            warnings.warn(printable(self._warned.popleft()), RuntimeWarning, stacklevel=3)

    def __enter__(self) -> "Self":
        return self

    def __exit__(self, error_type: type[BaseException] | None, *_: object) -> None:
        try:
            self.close()
        except HostError:
            if error_type is None:  # else the error in the `with` says why
                raise


def boot(
    rootfs: "str | os.PathLike[str]",
    *,
    text: bool = False,
    timeout: float | None = None,
    words: "Sequence[str]" = (),
    **options: "Value",
) -> Machine:
    """Boot `rootfs`; return the machine, which runs commands until it is closed.

    `text`: the default for its commands. `timeout`: seconds until the machine is up, from the call
    on, with the limit that the function `run` has. `options` and `words` as for that function.

    The machine ends with this process, or at the end of its `with`.

    Raises HostError when the machine cannot be started or its boot failed.
    """
    limit = Limit(_check_timeout(timeout))
    option_list = [*words, *option_words(options)]
    root = os.fspath(rootfs)
    with explain_shortage():
        arguments = _parse_machine_words(root, option_list)
        check_no_settings(arguments, "it is for a command: an argument of Machine.run and popen")
        launch = _plan(arguments, Commands())
        warned: deque[str] = deque()

        @contextmanager
        def own(loop: Loop, streams: HostStreams) -> "Iterator[Owner]":
            about = About("", os.path.realpath(root), launch.release)
            with ExitStack() as stack:
                for descriptor in launch.setup.descriptors:
                    stack.callback(os.close, descriptor)
                yield stack.enter_context(own_machine(launch, about, loop, streams, warned.append))

        return Machine(OwnerThread(own, limit), root, text=text, warned=warned)


def _words_of(command: "tuple[Word | Sequence[Word], ...]") -> tuple[Word, ...]:
    """Return the words of a command that was given as one sequence, or as its words."""
    return tuple(word for item in command for word in _as_argv(item))


def plan_command(root: str, argv: "list[str]", words: "list[str]") -> Launch:
    """Return the launch of a machine that runs `argv` in `root`.

    Raises HostError when `words` has anything but options that describe a machine.
    """
    arguments = _parse_machine_words(root, words, "--", *argv)
    command = parse_command(arguments, os.environ, tty=())
    return _plan(arguments, command)


def _plan(arguments: Arguments, command: Command | Commands | None) -> Launch:
    launch = plan_launch(parse_machine(arguments, command), os.environ)
    for warning in launch.warnings:
        warnings.warn(printable(warning), RuntimeWarning, stacklevel=2)
    return launch


def _parse_machine_words(root: str, words: "list[str]", *program: str) -> Arguments:
    given = parse(words)
    unusable = [name for name in given.given if name not in NAMES]
    unusable += [word for word in (given.root, *given.init, *(given.command or ())) if word]
    if unusable:
        raise HostError(f"cannot use {unusable[0]!r} here", "it is no option of a virtual machine")
    return parse([*words, "--", root, *program])


def parse_job(argv: tuple[Word, ...], options: "Mapping[str, Value]") -> Command:
    """Return the command for a running machine. Raises TypeError for options of the machine."""
    for name, value in options.items():
        if name not in _JOB_KEYWORDS and value is not None:
            known = ", ".join(sorted(_JOB_KEYWORDS))
            raise TypeError(f"unexpected option {name!r} of a command; there are {known}")
    words = [*option_words(options), "--", "/", "--", *map(os.fsdecode, argv)]
    command = parse_command(parse(words), os.environ, tty=())
    if command is None:
        raise ValueError("no command")
    return command


def option_words(options: "Mapping[str, Value]") -> list[str]:
    """Return the words of a command line for these keywords. Raises TypeError for unknown ones.

    True gives an option without a value; False and None leave the option out. An option that may be
    given more than once takes a list; one with names and values, such as `env` or `mount`, a
    dictionary.
    """
    unknown = sorted(options.keys() - KEYWORDS.keys())
    if unknown:
        known = ", ".join(sorted(KEYWORDS))
        raise TypeError(f"unknown option {unknown[0]!r} of a virtual machine; there are {known}")
    return [
        word for name, value in options.items() for word in _words_of_option(KEYWORDS[name], value)
    ]


def _words_of_option(option: Option, value: "Value") -> list[str]:
    if value is None or value is False:
        return []
    if value is True:
        return [option.name]
    if isinstance(value, (str, int, float, os.PathLike)):
        return [f"{option.name}={_text(value)}"]
    if not hasattr(value, "items"):
        return [word for item in value for word in _words_of_option(option, item)]
    if len(option.values) == 2:
        triples = ([option.name, name, _text(item)] for name, item in value.items())
        return [word for triple in triples for word in triple]
    return [f"{option.name}={name}={_text(item)}" for name, item in value.items()]


def _text(word: "Scalar") -> str:
    return os.fspath(word) if isinstance(word, (str, os.PathLike)) else str(word)
