"""The command line of chrootvm: the table of its options, and the parser. Pure.

Options end at the first word that does not begin with `-`, the root directory. Every word after
that belongs to the program in the guest, so none of these can be taken for an option of chrootvm.
"""

import os
from functools import partial

from initrd.cmdline import Word, split
from initrd.host.machine.devices import parse_disk, parse_gdb, parse_net, parse_publish
from initrd.host.qemu.accel import CHOICES
from initrd.host.system.hosterror import HostError
from initrd.options import OVERLAY_IN_MEMORY, Root, Share
from initrd.record import Record
from initrd.text import parse_natural

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any, NoReturn

USAGE = """\
usage: chrootvm [OPTION]... ROOTFS -- COMMAND [ARG]...
       chrootvm [OPTION]... ROOTFS
       chrootvm [OPTION]... ROOTFS INIT [ARG]...
       chrootvm --name NAME [--detach] [OPTION]... ROOTFS [-- COMMAND [ARG]...]
       chrootvm --in NAME [OPTION]... [-- COMMAND [ARG]...]
       chrootvm --list [--json] | --stop NAME

Run COMMAND, or a login shell, in the directory ROOTFS; or boot it with INIT as process 1.
"""
MIN_MEMORY, _FORCED = 96 << 20, ",force"  # bytes; Debian 12's kernel may hang with less
_OPTIONS_FIRST = "options come before ROOTFS"
_UNITS = {"K": 10, "M": 20, "G": 30, "T": 40}  # powers of 2

# --- values --------------------------------------------------------------------------------------


def parse_size(text: str) -> int:
    """Return the number of bytes that `512M` or `2G` is. Raises HostError."""
    number, unit = parse_natural(text[:-1]), text[-1:].upper()
    if not number or unit not in _UNITS:
        raise HostError(f"cannot use {text!r} as a size", "write 512M or 2G")
    return number << _UNITS[unit]


def parse_memory(text: str) -> int:
    """Return the bytes that `SIZE[,force]` is. Raises HostError for too little without `force`."""
    size = parse_size(text.removesuffix(_FORCED))
    if size < MIN_MEMORY and not text.endswith(_FORCED):
        least = f"{MIN_MEMORY >> 20}M"
        raise HostError(
            f"cannot boot with {text} of memory",
            f"with less than {least} the kernels of distributions stop without a message",
            f"--memory {least}, or --memory {text}{_FORCED} for a kernel that needs less",
        )
    return size


def parse_count(text: str) -> int:
    """Return a number of processors, at least 1. Raises HostError."""
    number = parse_natural(text)
    if not number:
        raise HostError(f"cannot use {text!r} as a number of processors", "write 1 or more")
    return number


def parse_seconds(text: str) -> float:
    """Return a number of seconds. Raises HostError."""
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < 1e9:
        raise HostError(f"cannot use {text!r} as a time", "write a number of seconds")
    return seconds


def _parse_accel(text: str) -> str:
    if text not in CHOICES:
        raise HostError(f"cannot use {text!r} as the accelerator", f"one of {', '.join(CHOICES)}")
    return text


def _parse_overlay(text: str) -> str:
    return os.path.abspath(text) if text else OVERLAY_IN_MEMORY


def _parse_append(text: str) -> str:
    """Return words for the kernel command line. Raises HostError for words that would end it."""
    mark = Word("end")
    words = split(f"{text} {mark}")
    if words[-1:] != [mark]:
        why = "all that follows on the kernel command line would be lost"
        raise HostError(f"cannot use --append {text}", why, "leave out --, and close each quote")
    if any(word.key == "init" for word in words):
        raise HostError(f"cannot use --append {text}", "what to run is named after ROOTFS")
    if any(word.key == "root" for word in words):
        raise HostError(f"cannot use --append {text}", "the root is ROOTFS")
    return text


def parse_share(tag: str, text: str, *, writable: bool) -> Share:
    """Return the share for TAG and PATH[:DEST]. Raises HostError.

    DEST is absolute, so a colon without a slash after it belongs to PATH. If `text` is the path of
    a directory, PATH is all of `text`.
    """
    if ":" in tag:
        raise HostError(f"cannot use {tag!r} as a tag", "it has a colon")
    source, colon, destination = text.rpartition(":/")
    if not colon or not source or os.path.isdir(text):
        return Share(tag, writable=writable, source=text)
    return Share(tag, f"/{destination}", writable, source)


# --- the table of options ------------------------------------------------------------------------


class Option(Record):
    """One option. `values` are the names of its values; an option without any is a flag.

    An option with a `field` sets that field of `initrd.host.machine.config.Machine`.
    """

    name: str
    values: tuple[str, ...] = ()
    help: str = ""
    default: str = ""  # the value when the option is not given; empty: none
    field: str = ""
    read: "Callable[..., Any]" = staticmethod(str)  # from the values to that of the field
    optional: bool = False  # the value may be left out; with one, the option is written with `=`
    many: bool = False  # each use adds to the field, a tuple; of other options the last one counts
    may_be_empty: bool = False


OPTIONS = (
    Option(
        "--mount",
        ("TAG", "PATH[:DEST]"),
        "share PATH with the guest",
        field="shares",
        read=partial(parse_share, writable=True),
        many=True,
    ),
    Option(
        "--mount-ro",
        ("TAG", "PATH[:DEST]"),
        "the same, read-only",
        field="shares",
        read=partial(parse_share, writable=False),
        many=True,
    ),
    Option("--rw", help="make the root writable: changes are written to ROOTFS"),
    Option(
        "--overlay",
        ("FILE",),
        "make the root writable, and keep what changes in memory or in the disk image FILE",
        field="overlay",
        read=_parse_overlay,
        optional=True,
    ),
    Option(
        "--disk",
        ("FILE[,ro]",),
        "give the guest a disk: a raw image, or a block device; with ,ro read-only",
        field="disk",
        read=parse_disk,
        many=True,
    ),
    Option("--memory", ("SIZE[,force]",), "memory of the guest", "1G", "memory", parse_memory),
    Option("--cpus", ("N",), "processors of the guest", "1", "cpus", parse_count),
    Option(
        "--accel",
        ("|".join(CHOICES),),
        "how to run the guest; auto: KVM if it works here",
        CHOICES[0],
        "accel",
        _parse_accel,
    ),
    Option("--machine", ("TYPE",), "QEMU's machine, and its properties", field="machine"),
    Option("--arch", ("ARCH",), "architecture of the guest; default that of ROOTFS", field="arch"),
    Option(
        "--kernel",
        ("FILE|DIR",),
        "kernel to boot, or its build tree; default the newest in ROOTFS",
        field="kernel",
    ),
    Option(
        "--modules",
        ("DIR",),
        "modules of the kernel: a directory lib/modules/VERSION",
        field="modules",
    ),
    Option("--module", ("NAME",), "load a further module", field="module", many=True),
    Option(
        "--kaslr",
        help="start the kernel at a random address: "
        "QEMU's default firmware and the compressed image",
        field="kaslr",
    ),
    Option("--init", ("FILE",), "the /init of the image", field="init_program"),
    Option(
        "--append",
        ("STR",),
        "add to the kernel command line",
        field="append",
        read=_parse_append,
        many=True,
        may_be_empty=True,
    ),
    Option(
        "--net",
        ("host",),
        "connect the guest to the network; with host also to services on the host's loopback",
        field="network",
        read=parse_net,
        optional=True,
    ),
    Option(
        "--publish",
        ("[ADDRESS:]HOSTPORT:GUESTPORT",),
        "forward connections to a port of the host, by default of its loopback, to the guest",
        field="publish",
        read=parse_publish,
        many=True,
    ),
    Option(
        "--env",
        ("NAME[=VALUE]",),
        "set a variable of COMMAND; without VALUE: from the environment",
        many=True,
    ),
    Option("--chdir", ("DIR",), "COMMAND's working directory", "/"),
    Option(
        "--user",
        ("USER[:GROUP]",),
        "user and group of COMMAND, as the guest names them; default 0:0",
    ),
    Option(
        "--warm",
        help="start COMMAND from a saved machine; make one at the first time",
        field="warm",
    ),
    Option(
        "--cache-limit",
        ("SIZE",),
        "disk space for the machines saved by --warm",
        "2G",
        "cache_limit",
        parse_size,
    ),
    Option("--name", ("NAME",), "give the machine a name: further commands can run in it (--in)"),
    Option("--detach", help="with --name: leave the machine running, until --stop NAME"),
    Option("--in", ("NAME",), "run COMMAND in the machine of this name"),
    Option("--list", help="print the machines that have a name, and exit"),
    Option("--json", help="with --list: print JSON"),
    Option("--stop", ("NAME",), "end the machine of this name, and exit"),
    Option("--timeout", ("SECONDS",), "end everything after SECONDS, with exit status 124"),
    Option(
        "--gdb",
        ("PORT",),
        "wait for gdb before the kernel starts, at a socket or at a TCP port of the loopback",
        field="gdb",
        read=parse_gdb,
        optional=True,
    ),
    Option("--debug", help="make /init print every step", field="debug"),
    Option("--verbose", help="print the commands that are run, and their messages"),
    Option("--doctor", help="do not boot; print whether ROOTFS would boot, and why not"),
    Option(
        "--report",
        ("FILE",),
        "write the time of each phase to FILE: JSON, or a picture if it ends with .svg",
        many=True,
    ),
    Option("--clean-cache", help="delete all that chrootvm has saved for later starts, and exit"),
    Option("--dry-run", help="only print the commands"),
    Option("--qemu", ("BIN",), "QEMU to use", field="qemu"),
    Option("--virtiofsd", ("BIN",), "virtiofsd to use", field="virtiofsd"),
    Option(
        "--unprotected-read-only",
        help="where this host cannot keep a read-only directory so, "
        "share it though root in the guest can write there",
        field="unprotected_read_only",
    ),
    Option(
        "--qemu-arg",
        ("ARG",),
        "add a word to QEMU's command line",
        field="qemu_arguments",
        many=True,
        may_be_empty=True,
    ),
    Option("--help", help="show this, and exit"),
    Option("--version", help="show the version, and exit"),
)
# Options that take no ROOTFS, each with those that can be given beside it.
WITHOUT_ROOT: dict[str, tuple[str, ...]] = {
    "--in": ("--env", "--chdir", "--user", "--timeout", "--verbose"),
    "--list": ("--json",),
    "--stop": (),
}
_COMPANIONS = {"--detach": "--name", "--json": "--list"}
_BY_NAME = {option.name: option for option in OPTIONS}


def default_of(name: str) -> "Any":
    """Return the value of an option's field when the option is not given."""
    option = _BY_NAME[name]
    return option.read(option.default)


# --- parsing the words ---------------------------------------------------------------------------


class Arguments(Record):
    """A parsed command line. `given`: for each option the values of each of its uses."""

    given: dict[str, list[tuple[str, ...]]]
    root: str = ""  # empty: missing
    init: tuple[str, ...] = ()  # INIT and its arguments; empty: none
    command: tuple[str, ...] | None = None  # what follows `--`; without it and INIT: a login shell

    def has(self, name: str) -> bool:
        """Return whether an option was given."""
        return name in self.given

    def value(self, name: str) -> str:
        """Return the value of an option, which is its default when it was not given."""
        return self.given[name][-1][0] if name in self.given else _BY_NAME[name].default

    def values(self, name: str) -> tuple[str, ...]:
        """Return all values of an option that may be given more than once."""
        return tuple(values[0] for values in self.given.get(name, ()))

    def fields(self) -> "dict[str, Any]":
        """Return the fields of Machine that were given, and its root. Raises HostError."""
        if not self.root:
            raise HostError("no directory to boot", "ROOTFS is missing", "chrootvm --help")
        found: dict[str, Any] = {
            "root": Share(Root.source, writable=self.has("--rw"), source=self.root)
        }
        for option in OPTIONS:
            if option.field and option.many:
                values = (option.read(*words) for words in self.given.get(option.name, ()))
                found[option.field] = (*found.get(option.field, ()), *values)
            elif option.field and self.has(option.name):
                found[option.field] = self._field(option)
        return found

    def _field(self, option: Option) -> "Any":
        return option.read(self.value(option.name)) if option.values else True


def parse(words: "Sequence[str]") -> Arguments:
    """Parse the words after the program's name. Raises HostError."""
    given: dict[str, list[tuple[str, ...]]] = {}
    rest, last = list(words), None
    while rest and rest[0].startswith("-") and rest[0] not in ("-", "--"):
        name, equals, first = rest.pop(0).partition("=")
        option = _BY_NAME.get(name) or _fail_unknown(name)
        last = None if equals else option
        values = _parse_values(option, [first] if equals else [], rest)
        given.setdefault(name, []).append(values)
    if given.keys() & WITHOUT_ROOT:
        return _parse_without_root(given, rest)
    if rest[:1] == ["--"]:  # the next word is the root, even if it begins with -
        rest.pop(0)
    else:
        _check_no_value(last, rest)
    root, program = (rest[0], rest[1:]) if rest else ("", [])
    if rest and not root:
        raise HostError("cannot use '' as the root directory", "it is empty")
    if program[:1] != ["--"]:
        _check_init(root, program)
        return Arguments(given, root, tuple(program))
    if not program[1:]:
        raise HostError("no command after --", "there is nothing to run", "chrootvm ROOTFS -- true")
    return Arguments(given, root, (), tuple(program[1:]))


def _parse_without_root(given: dict[str, list[tuple[str, ...]]], rest: list[str]) -> Arguments:
    """Return the arguments for a machine that runs, or for none."""
    name = next(name for name in WITHOUT_ROOT if name in given)
    allowed = WITHOUT_ROOT[name]
    possible = (name, *allowed, "--help", "--version")
    other = next((option for option in given if option not in possible), "")
    if other:
        known = f"the options with it are {', '.join(allowed)}" if allowed else "it has no options"
        raise HostError(f"cannot use {other} with {name}", known)
    if name != "--in" and rest:
        raise HostError(f"cannot use {rest[0]!r} with {name}", "it takes no further words")
    if rest and rest[0] != "--":
        hint = f"chrootvm --in {given[name][-1][0]} -- {' '.join(rest)}"
        raise HostError(f"cannot use {rest[0]!r} with --in", "COMMAND goes after --", hint)
    if rest[:1] == ["--"] and not rest[1:]:
        raise HostError("no command after --", "there is nothing to run")
    return Arguments(given, "", (), tuple(rest[1:]) or None)


def check_companions(arguments: Arguments) -> None:
    """Raise HostError for an option without the one that it belongs to."""
    for option, other in _COMPANIONS.items():
        if arguments.has(option) and not arguments.has(other):
            raise HostError(f"cannot use {option} alone", f"it belongs to {other}")


def _parse_values(option: Option, values: list[str], rest: list[str]) -> tuple[str, ...]:
    """Return an option's values: `values`, given after `=`, and words removed from `rest`."""
    if not option.values and values:
        raise HostError(f"cannot understand {option.name}={values[0]}", "it takes no value")
    if option.optional and not values:
        return ("",)
    missing = len(option.values) - len(values)
    if missing > len(rest):
        raise HostError(
            f"cannot understand {option.name}",
            f"write {' '.join((option.name, *option.values))}",
        )
    further, rest[:missing] = rest[:missing], []
    if "" in (*values, *further) and not option.may_be_empty:
        # Probably an unset variable of a script: no reason to share the working directory.
        raise HostError(f"cannot understand {option.name}", "its value is empty")
    return (*values, *further)


def _check_no_value(last: Option | None, rest: list[str]) -> None:
    """Raise HostError when the root is probably meant as the value of the option before it.

    It is, if the option's value is optional, and the word after the root is not `--` either: with
    `--gdb 1234 DIR -- true` chrootvm would look for the root 1234, and for DIR in it as INIT.
    """
    if last and last.optional and rest[1:] and rest[1] != "--" and not os.path.isdir(rest[0]):
        why = f"there is no such directory; a value of {last.name} is written with ="
        what = f"cannot use {rest[0]} as the root directory"
        raise HostError(what, why, f"{last.name}={rest[0]} {rest[1]}")


def _check_init(root: str, program: list[str]) -> None:
    """Raise HostError when the word after the root is an option, or empty."""
    if program[:1] == [""]:
        hint = f"its path, or nothing for a login shell: chrootvm {root}"
        raise HostError("cannot use '' as INIT", "it is empty", hint)
    if program and program[0].startswith("-"):
        name = program[0].partition("=")[0]
        option = _BY_NAME.get(name) or _fail_unknown(name)
        words = program[: 1 + len(option.values)] if program[0] == name else program[:1]
        hint = f"chrootvm {' '.join(words[:1] if option.optional else words)} {root}"
        raise HostError(f"cannot use {name} after {root}", _OPTIONS_FIRST, hint)


def _fail_unknown(name: str) -> "NoReturn":
    from difflib import get_close_matches  # noqa: PLC0415 - only to explain a mistake

    similar = get_close_matches(name, _BY_NAME, 1)
    raise HostError(
        f"unknown option {name}",
        _OPTIONS_FIRST,
        similar[0] if similar else "chrootvm --help; a ROOTFS like that goes after --",
    )


def usage() -> str:
    """Return the output of --help."""
    return "\n".join([USAGE, *map(_usage_line, OPTIONS)]) + "\n"


def _usage_line(option: Option) -> str:
    values = " ".join(option.values)
    syntax = f"{option.name}[={values}]" if option.optional else f"{option.name} {values}"
    default = f"; default {option.default}" if option.default not in ("", CHOICES[0]) else ""
    return f"  {syntax:30}  {option.help}{default}"
