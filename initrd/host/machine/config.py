"""What a user can ask for: a directory to boot, and the machine to boot it in."""

import os

from initrd.cmdline import Word, split
from initrd.command import Command
from initrd.errors import HostError
from initrd.host.machine.cli import Arguments
from initrd.host.qemu.accel import CHOICES
from initrd.host.system import terminal
from initrd.host.system.terminal import STDERR, STDIN, STDOUT
from initrd.record import Record
from initrd.text import parse_natural

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

ROOT_TAG = "rootfs"
OVERLAY_IN_MEMORY = "ram"
_UNITS = {"K": 10, "M": 20, "G": 30, "T": 40}  # powers of 2
_STEPS = ("debug", "quiet")  # /init says each step; the kernel, which heeds the last, is quiet
_ONLY_HERE = ("--env", "--chdir", "--user")


class Share(Record):
    """A further directory for the guest."""

    tag: str
    path: str
    destination: str = ""  # absolute path in the guest; empty: /run/mnt/TAG
    writable: bool = True


class Machine(Record):
    """A virtual machine that boots a directory."""

    root: str
    init: str = "/bin/sh"  # a bare name is looked up in the root
    arguments: tuple[str, ...] = ()
    command: Command | None = None  # to run below /init; then `init` is not looked at
    shares: tuple[Share, ...] = ()
    writable: bool = False  # the root, through to the host
    overlay: str = ""  # empty: none; `ram`; or the file that keeps what is written
    memory: int = 1 << 30  # bytes
    cpus: int = 1
    accel: str = "auto"
    machine: str = ""  # value of QEMU's -machine; empty: ours
    arch: str = ""  # empty: the host's
    kernel: str = ""  # empty: the root's newest
    modules: str = ""  # empty: those of the kernel
    module: tuple[str, ...] = ()  # further modules to load
    init_program: str = ""  # the `/init` of the image; empty: the one that was built or installed
    append: tuple[str, ...] = ()  # to the kernel command line
    network: bool = False
    debug: bool = False  # /init says every step
    quiet: bool = True  # the kernel says nothing unless something is wrong
    qemu: str = ""
    virtiofsd: str = ""
    qemu_arguments: tuple[str, ...] = ()


def parse_machine(arguments: Arguments) -> Machine:
    """Return the machine that was asked for."""
    if not arguments.root:
        raise HostError("no directory to boot", "ROOTFS is missing", "chrootvm --help")
    init = arguments.init or ("/bin/sh",)
    return Machine(
        root=arguments.root,
        init=init[0],
        arguments=init[1:],
        shares=parse_shares(arguments),
        writable=arguments.has("--rw"),
        overlay=_overlay(arguments),
        memory=parse_size(arguments.value("--memory", "1G")),
        cpus=parse_count(arguments.value("--cpus", "1")),
        accel=_accel(arguments.value("--accel", CHOICES[0])),
        machine=arguments.value("--machine"),
        arch=arguments.value("--arch"),
        kernel=arguments.value("--kernel"),
        modules=arguments.value("--modules"),
        module=arguments.values("--module"),
        init_program=arguments.value("--init"),
        append=(*_append(arguments), *(_STEPS if arguments.has("--report") else ())),
        network=arguments.has("--net"),
        debug=arguments.has("--debug"),
        quiet=not (arguments.has("--debug") or _watches(arguments)),
        qemu=arguments.value("--qemu"),
        virtiofsd=arguments.value("--virtiofsd"),
        qemu_arguments=arguments.values("--qemu-arg"),
    )


def parse_shares(arguments: Arguments) -> tuple[Share, ...]:
    """Return the further directories."""
    writable = (parse_share(*words, writable=True) for words in arguments.given.get("--mount", ()))
    readonly = (
        parse_share(*words, writable=False) for words in arguments.given.get("--mount-ro", ())
    )
    return (*writable, *readonly)


def parse_share(tag: str, where: str, *, writable: bool) -> Share:
    """Return the share for TAG and PATH[:DEST].

    DEST is absolute, so a colon that no slash follows belongs to PATH; and when there is a
    directory of the whole name, that is what is meant.
    """
    if ":" in tag:
        raise HostError(f"cannot use {tag!r} as a tag", "it has a colon")
    path, colon, destination = where.rpartition(":/")
    if not colon or not path or os.path.isdir(where):
        return Share(tag, where, writable=writable)
    return Share(tag, path, f"/{destination}", writable=writable)


def parse_size(text: str) -> int:
    """Return the number of bytes that `512M` or `2G` is."""
    number, unit = parse_natural(text[:-1]), text[-1:].upper()
    if not number or unit not in _UNITS:
        raise HostError(f"cannot use {text!r} as a size", "write 512M or 2G")
    return number << _UNITS[unit]


def parse_count(text: str) -> int:
    """Return a number of at least one."""
    number = parse_natural(text)
    if not number:
        raise HostError(f"cannot use {text!r} as a number of processors", "write 1 or more")
    return number


def parse_seconds(text: str) -> float:
    """Return a number of seconds."""
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < 1e9:
        raise HostError(f"cannot use {text!r} as a time", "write a number of seconds")
    return seconds


def _append(arguments: Arguments) -> tuple[str, ...]:
    """Return what is added to the kernel command line: whole words, and no end of it."""
    mark = Word("end")
    for text in arguments.values("--append"):
        words = split(f"{text} {mark}")
        if words[-1:] != [mark]:
            why = "all that follows on the kernel command line would be lost"
            hint = "leave out --, and close each quote"
            raise HostError(f"cannot use --append {text}", why, hint)
        if any(word.key == "init" for word in words):
            raise HostError(f"cannot use --append {text}", "what to run is named after ROOTFS")
    return arguments.values("--append")


def _accel(text: str) -> str:
    if text not in CHOICES:
        raise HostError(f"cannot use {text!r} as the accelerator", f"one of {', '.join(CHOICES)}")
    return text


def _watches(arguments: Arguments) -> bool:
    """Tell whether the console is for reading, and not a command's terminal."""
    return arguments.has("--verbose") and arguments.command is not None


def _overlay(arguments: Arguments) -> str:
    if not arguments.has("--overlay"):
        return ""
    path = arguments.value("--overlay")
    return os.path.abspath(path) if path else OVERLAY_IN_MEMORY


def parse_command(
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
    given = [parse_variable(word, environment) for word in arguments.values("--env")]
    return Command(
        argv=tuple(map(os.fsencode, arguments.command)),
        environ=tuple(os.fsencode(word) for word in (*kind, *given) if word),
        cwd=os.fsencode(arguments.value("--chdir", "/")),
        user=os.fsencode(arguments.value("--user")),
        tty=tty,
        size=terminal.size(STDOUT) if tty else (24, 80),
    )


def parse_variable(word: str, environment: "Mapping[str, str]") -> str:
    """Return NAME=VALUE for --env; a NAME alone has the value that it has here, if any."""
    name, equals, _ = word.partition("=")
    if not name:
        raise HostError(f"cannot set {word!r}", "there is no name before the =")
    if equals:
        return word
    return f"{name}={environment[name]}" if name in environment else ""


def command_terminals() -> tuple[int, ...]:
    """Return which of COMMAND's descriptors shall be a terminal.

    Input and output must both be one here, or what is typed and what is shown would not meet; and
    we must not be in the background, where the terminal is somebody else's.
    """
    if not terminal.is_terminal(STDIN, STDOUT) or not terminal.in_foreground(STDIN):
        return ()
    return (STDIN, STDOUT, STDERR) if terminal.is_terminal(STDERR) else (STDIN, STDOUT)
