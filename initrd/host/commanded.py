"""The command of chrootvm ROOTFS -- COMMAND: from its arguments, and the terminal that is here."""

import os

from initrd.command import Command
from initrd.host import terminal
from initrd.host.arguments import Arguments
from initrd.host.failure import HostError
from initrd.host.voice import STDERR, STDIN, STDOUT

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

_ONLY_HERE = ("--env", "--chdir", "--user")


def command_of(
    arguments: Arguments, environment: "Mapping[str, str]", tty: tuple[int, ...]
) -> Command | None:
    """Return the command that was asked for; None: there is none, but an init.

    `tty`: which of its descriptors shall be a terminal.
    """
    if arguments.command is None:
        for name in _ONLY_HERE:
            if arguments.has(name):
                raise HostError(f"cannot use {name}", "there is no -- COMMAND that it is for")
        return None
    kind = [f"TERM={environment['TERM']}"] if tty and "TERM" in environment else []
    given = [variable(word, environment) for word in arguments.values("--env")]
    return Command(
        argv=tuple(map(os.fsencode, arguments.command)),
        environ=tuple(os.fsencode(word) for word in (*kind, *given) if word),
        cwd=os.fsencode(arguments.value("--chdir", "/")),
        user=os.fsencode(arguments.value("--user")),
        tty=tty,
        size=terminal.size(STDOUT) if tty else (24, 80),
    )


def variable(word: str, environment: "Mapping[str, str]") -> str:
    """Return NAME=VALUE for --env; a NAME alone has the value that it has here, if any."""
    name, equals, _ = word.partition("=")
    if not name:
        raise HostError(f"cannot set {word!r}", "there is no name before the =")
    if equals:
        return word
    return f"{name}={environment[name]}" if name in environment else ""


def terminals() -> tuple[int, ...]:
    """Return which of COMMAND's descriptors shall be a terminal.

    Input and output must both be one here, or what is typed and what is shown would not meet; and
    we must not be in the background, where the terminal is somebody else's.
    """
    if not terminal.is_terminal(STDIN, STDOUT) or not terminal.in_foreground(STDIN):
        return ()
    return (STDIN, STDOUT, STDERR) if terminal.is_terminal(STDERR) else (STDIN, STDOUT)
