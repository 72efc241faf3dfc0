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

from initrd.host import collect, keywords
from initrd.host.arguments import parse
from initrd.host.commanded import command_of
from initrd.host.failure import HostError, shortage
from initrd.host.launch import Launch, plan
from initrd.host.wishes import machine_of
from initrd.record import Record

if TYPE_CHECKING:
    from collections.abc import Sequence

    from initrd.host.collect import File
    from initrd.host.keywords import Value

__all__ = ["CommandFailed", "Completed", "HostError", "TimeoutExpired", "Vm", "run"]

Word = str | bytes | os.PathLike[str]
Output = TypeVar("Output", str, bytes)
_CODE = ("utf-8", "surrogateescape")


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
    chosen = [*words, *keywords.words({"chdir": cwd, **options})]
    with shortage(), ExitStack() as stack:
        data = input.encode(*_CODE) if isinstance(input, str) else input
        files = (collect.source(stdin, data), collect.target(stdout), collect.target(stderr))
        read, write, complain = (stack.enter_context(file) for file in files)
        launch = planned(os.fspath(rootfs), [os.fsdecode(word) for word in argv], chosen)
        for descriptor in launch.files():
            stack.callback(os.close, descriptor)
        ended = collect.converse(launch, read, write, complain, timeout)
    out, err = (data.decode(*_CODE) if text else data for data in (ended.stdout, ended.stderr))
    if ended.status is None:
        raise TimeoutExpired(argv, timeout or 0, out, err)
    if check and ended.status:
        raise CommandFailed(ended.status, argv, out, err)
    return Completed(argv, ended.status, out, err)


def planned(root: str, argv: "list[str]", words: "list[str]") -> Launch:
    """Return how to start the machine. Raises HostError for what is no option for us."""
    given = parse(words)
    strange = [name for name in given.given if name not in keywords.NAMES]
    strange += [word for word in (given.root, *given.init, *(given.command or ())) if word]
    if strange:
        raise HostError(f"cannot use {strange[0]!r} here", "it is no option of a virtual machine")
    arguments = parse([*words, "--", root, "--", *argv])
    command = command_of(arguments, os.environ, tty=())
    return plan(machine_of(arguments).replace(command=command), os.environ)
