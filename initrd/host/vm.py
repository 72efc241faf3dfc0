"""Run a command in a directory's virtual machine, as `subprocess.run` would run it here.

    from initrd.host import vm

    done = vm.run("/srv/bookworm", ["uname", "-s"], text=True)
    assert (done.status, done.stdout) == (0, "Linux\n")

Takes no terminal, handles no signals and changes nothing that is global: it may be called from any
thread, and from many of them at the same time.
"""

import os
from contextlib import ExitStack
from subprocess import CalledProcessError, TimeoutExpired
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from initrd.errors import HostError
from initrd.host.command import capture
from initrd.host.machine.cli import OPTIONS, Option, parse
from initrd.host.machine.config import parse_command, parse_machine
from initrd.host.machine.launch import Launch, plan_launch
from initrd.host.system.process import explain_shortage
from initrd.record import Record

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from initrd.host.command.capture import File

    Scalar = str | int | float | os.PathLike[str]
    Value = bool | Scalar | Iterable[Scalar] | Mapping[str, Scalar] | None

__all__ = ["CommandFailed", "Completed", "HostError", "TimeoutExpired", "Vm", "run"]
Word = str | bytes | os.PathLike[str]
Output = TypeVar("Output", str, bytes)
_CODE = ("utf-8", "surrogateescape")
# These are for whoever sits at a terminal.
_FOR_PEOPLE = {"--help", "--version", "--doctor", "--dry-run", "--verbose", "--timeout"}
KEYWORDS = {
    option.name.removeprefix("--").replace("-", "_"): option
    for option in OPTIONS
    if option.name not in _FOR_PEOPLE
}
NAMES = {option.name for option in KEYWORDS.values()}


class CommandFailed(CalledProcessError):
    """A command ended with another status than 0, and `check` was asked for."""

    def __str__(self) -> str:
        """Say what it printed on standard error, too: that is what one wants to know."""
        said = os.fsdecode(self.stderr or b"").rstrip()
        return super().__str__() + (f"\n{said}" if said else "")


class Completed(Generic[Output], Record):
    """How a command ended. What went to a file of the caller's own is not in it."""

    command: tuple[Word, ...]
    status: int  # its exit status; 128+N when it died of signal N
    stdout: Output
    stderr: Output


class Vm(Record):
    """A directory to boot, and options of chrootvm to boot it with: its words."""

    root: str
    options: tuple[str, ...] = ()

    def run(self, *command: Word, text: bool = True, **how: Any) -> Completed[Any]:
        """Run a command, in a machine of its own, as `run` does; text is str unless told."""
        __tracebackhide__ = True  # pytest shows the caller's line
        return run(self.root, command, text=text, words=self.options, **how)


def run(  # noqa: PLR0913 - they are those of subprocess.run
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

    Standard input is `input`, or what is read from the file or descriptor `stdin`. Standard output
    and error are returned, or written to the file or descriptor `stdout` and `stderr`. With `text`
    they are str, in UTF-8. `timeout`: seconds for all of it, the boot included. The options are
    those of chrootvm, such as `memory="2G"`, `net=True`, `env={"A": "b"}`, `mount={"src": "."}`;
    `words` are more of them, as on its command line.

    Raises HostError when there can be no such machine or its boot failed, CommandFailed when
    `check` and the status is not 0, subprocess.TimeoutExpired when time is up.
    """
    __tracebackhide__ = True
    argv = (command,) if isinstance(command, (str, bytes, os.PathLike)) else tuple(command)
    chosen = [*words, *option_words({"chdir": cwd, **options})]
    with explain_shortage(), ExitStack() as stack:
        data = input.encode(*_CODE) if isinstance(input, str) else input
        files = (
            capture.open_input(stdin, data),
            capture.open_output(stdout),
            capture.open_output(stderr),
        )
        read, write, complain = (stack.enter_context(file) for file in files)
        launch = planned(os.fspath(rootfs), [os.fsdecode(word) for word in argv], chosen)
        for descriptor in launch.setup.descriptors:
            stack.callback(os.close, descriptor)
        ended = capture.capture_command(launch, read, write, complain, timeout)
    out, err = (data.decode(*_CODE) if text else data for data in (ended.stdout, ended.stderr))
    if ended.status is None:
        raise TimeoutExpired(argv, timeout or 0, out, err)
    if check and ended.status:
        raise CommandFailed(ended.status, argv, out, err)
    return Completed(argv, ended.status, out, err)


def planned(root: str, argv: "list[str]", words: "list[str]") -> Launch:
    """Return how to start the machine. Raises HostError for what is no option for us."""
    given = parse(words)
    strange = [name for name in given.given if name not in NAMES]
    strange += [word for word in (given.root, *given.init, *(given.command or ())) if word]
    if strange:
        raise HostError(f"cannot use {strange[0]!r} here", "it is no option of a virtual machine")
    arguments = parse([*words, "--", root, "--", *argv])
    command = parse_command(arguments, os.environ, tty=())
    return plan_launch(parse_machine(arguments, command), os.environ)


def option_words(options: "Mapping[str, Value]") -> list[str]:
    """Return the words of a command line for these keywords. Raises TypeError for unknown ones.

    True is an option without a value; False and None leave it out. One that may be given more than
    once takes a list; those of names and values, such as `env` and `mount`, a dictionary.
    """
    unknown = sorted(options.keys() - KEYWORDS.keys())
    if unknown:
        known = ", ".join(sorted(KEYWORDS))
        raise TypeError(f"unknown option {unknown[0]!r} of a virtual machine; there are {known}")
    return [word for name, value in options.items() for word in _words(KEYWORDS[name], value)]


def _words(option: Option, value: "Value") -> list[str]:
    if value is None or value is False:
        return []
    if value is True:
        return [option.name]
    if isinstance(value, (str, int, float, os.PathLike)):
        return [f"{option.name}={_text(value)}"]
    if not hasattr(value, "items"):
        return [word for one in value for word in _words(option, one)]
    if len(option.values) == 2:
        pairs = ([option.name, name, _text(one)] for name, one in value.items())
        return [word for pair in pairs for word in pair]
    return [f"{option.name}={name}={_text(one)}" for name, one in value.items()]


def _text(word: "Scalar") -> str:
    return os.fspath(word) if isinstance(word, (str, os.PathLike)) else str(word)
