"""Boot a directory in a virtual machine and run a command in it: the Python interface.

It is used like `subprocess.run`:

    from initrd.host import vm

    done = vm.run("/srv/bookworm", ["uname", "-s"], text=True)
    assert (done.status, done.stdout) == (0, "Linux\n")

It uses no terminal, sets no signal handlers and changes no global state: it may be called from any
thread, and from several threads at the same time.
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
from initrd.host.qemu.console import KernelPanic
from initrd.host.system.process import explain_shortage
from initrd.record import Record

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from initrd.host.command.capture import File

    Scalar = str | int | float | os.PathLike[str]
    Value = bool | Scalar | Iterable[Scalar] | Mapping[str, Scalar] | None

__all__ = [
    "CommandFailed",
    "Completed",
    "HostError",
    "KernelPanic",
    "TimeoutExpired",
    "Vm",
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
    "--timeout",
    "--gdb",
}
KEYWORDS = {
    option.name.removeprefix("--").replace("-", "_"): option
    for option in OPTIONS
    if option.name not in _COMMAND_LINE_ONLY
}
NAMES = {option.name for option in KEYWORDS.values()}


class CommandFailed(CalledProcessError):
    """A command ended with another status than 0, and `check` is True."""

    def __str__(self) -> str:
        """Return the message of CalledProcessError, and the command's standard error."""
        stderr = os.fsdecode(self.stderr or b"").rstrip()
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
    they are str, in UTF-8. `timeout`: seconds for the boot and the command together. `options` are
    those of chrootvm, such as `memory="2G"`, `net=True`, `env={"A": "b"}`, `mount={"src": "."}`;
    `words` are further options, written as on its command line.

    Raises HostError when the machine cannot be started or its boot failed; KernelPanic, which is a
    HostError, when the guest's kernel panics while the command runs; CommandFailed when `check` and
    the status is not 0; subprocess.TimeoutExpired after `timeout` seconds.
    """
    __tracebackhide__ = True
    argv = (command,) if isinstance(command, (str, bytes, os.PathLike)) else tuple(command)
    option_list = [*words, *option_words({"chdir": cwd, **options})]
    with explain_shortage(), ExitStack() as stack:
        data = input.encode(*_ENCODING) if isinstance(input, str) else input
        files = (
            capture.open_input(stdin, data),
            capture.open_output(stdout),
            capture.open_output(stderr),
        )
        stdin_fd, stdout_fd, stderr_fd = (stack.enter_context(file) for file in files)
        launch = plan_command(os.fspath(rootfs), [os.fsdecode(word) for word in argv], option_list)
        for descriptor in launch.setup.descriptors:
            stack.callback(os.close, descriptor)
        outcome = capture.capture_command(launch, stdin_fd, stdout_fd, stderr_fd, timeout)
    out, err = (
        data.decode(*_ENCODING) if text else data for data in (outcome.stdout, outcome.stderr)
    )
    if outcome.status is None:
        raise TimeoutExpired(argv, timeout or 0, out, err)
    if check and outcome.status:
        raise CommandFailed(outcome.status, argv, out, err)
    return Completed(argv, outcome.status, out, err)


def plan_command(root: str, argv: "list[str]", words: "list[str]") -> Launch:
    """Return the launch of a machine that runs `argv` in `root`.

    Raises HostError when `words` has anything but options that describe a machine.
    """
    given = parse(words)
    unusable = [name for name in given.given if name not in NAMES]
    unusable += [word for word in (given.root, *given.init, *(given.command or ())) if word]
    if unusable:
        raise HostError(f"cannot use {unusable[0]!r} here", "it is no option of a virtual machine")
    arguments = parse([*words, "--", root, "--", *argv])
    command = parse_command(arguments, os.environ, tty=())
    return plan_launch(parse_machine(arguments, command), os.environ)


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
