"""The command line of chrootvm: words in, what they ask for out. Pure.

Options end at the first word that is none, the root directory: all that follows belongs to the
program in the guest, so nothing there can be taken for an option of ours.
"""

from initrd.errors import HostError
from initrd.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

USAGE = """\
usage: chrootvm [OPTION]... ROOTFS [INIT [ARG]...]
       chrootvm [OPTION]... ROOTFS -- COMMAND [ARG]...
"""


class Option(Record):
    """One option: `values` names what it takes; `optional` may be left out, and needs a `=`."""

    name: str
    values: tuple[str, ...] = ()
    help: str = ""
    optional: bool = False
    many: bool = False


OPTIONS = (
    Option("--mount", ("TAG", "PATH[:DEST]"), "share PATH with the guest", many=True),
    Option("--mount-ro", ("TAG", "PATH[:DEST]"), "the same, read-only", many=True),
    Option("--rw", help="make the root writable, through to this machine"),
    Option(
        "--overlay",
        ("FILE",),
        "make the root writable, and keep what changes in memory or in the disk image FILE",
        optional=True,
    ),
    Option("--memory", ("SIZE",), "memory of the guest; default 1G"),
    Option("--cpus", ("N",), "processors of the guest; default 1"),
    Option("--accel", ("auto|kvm|tcg",), "how to run the guest; auto: KVM if it works here"),
    Option("--machine", ("TYPE",), "QEMU's machine, and its properties"),
    Option("--arch", ("ARCH",), "architecture of the guest; default this machine's"),
    Option("--kernel", ("FILE",), "kernel to boot; default the newest in ROOTFS"),
    Option("--modules", ("DIR",), "its modules: a directory lib/modules/VERSION"),
    Option("--module", ("NAME",), "load a further module", many=True),
    Option("--init", ("FILE",), "the /init of the image"),
    Option("--append", ("STR",), "add to the kernel command line", many=True),
    Option("--net", help="connect the guest to the network"),
    Option(
        "--env", ("NAME[=VALUE]",), "set a variable of COMMAND; without VALUE: as here", many=True
    ),
    Option("--chdir", ("DIR",), "COMMAND's working directory; default /"),
    Option("--user", ("USER[:GROUP]",), "whom COMMAND runs as, by the guest's names; default 0:0"),
    Option("--timeout", ("SECONDS",), "end the machine after that, with exit status 124"),
    Option("--debug", help="have /init say every step"),
    Option("--verbose", help="say the commands, and what they say"),
    Option("--doctor", help="boot nothing, but say whether this would boot, and why not"),
    Option(
        "--report",
        ("FILE",),
        "write how long what took to FILE: JSON, or a picture if it ends with .svg",
        many=True,
    ),
    Option("--dry-run", help="only print the commands"),
    Option("--qemu", ("BIN",), "QEMU to use"),
    Option("--virtiofsd", ("BIN",), "virtiofsd to use"),
    Option("--qemu-arg", ("ARG",), "add a word to QEMU's command line", many=True),
    Option("--help", help="show this, and exit"),
    Option("--version", help="show the version, and exit"),
)
_BY_NAME = {option.name: option for option in OPTIONS}
_MAY_BE_EMPTY = ("--append", "--qemu-arg")


class Arguments(Record):
    """A command line, taken apart. `given`: the values of each option, as often as it was given."""

    given: dict[str, list[tuple[str, ...]]]
    root: str = ""  # empty: none was named
    init: tuple[str, ...] = ()
    command: tuple[str, ...] | None = None  # what follows `--`

    def has(self, name: str) -> bool:
        """Tell whether an option was given."""
        return name in self.given

    def value(self, name: str, default: str = "") -> str:
        """Return the value of an option that takes one; the last one counts."""
        return self.given[name][-1][0] if name in self.given else default

    def values(self, name: str) -> tuple[str, ...]:
        """Return all values of an option that takes one."""
        return tuple(words[0] for words in self.given.get(name, ()))


def parse(words: "Sequence[str]") -> Arguments:
    """Take the words after the program's name apart. Raises HostError for what is no such."""
    given: dict[str, list[tuple[str, ...]]] = {}
    waiting = list(words)
    while waiting and waiting[0].startswith("-") and waiting[0] not in ("-", "--"):
        name, equals, first = waiting.pop(0).partition("=")
        option = _BY_NAME.get(name) or _unknown(name)
        values = _values(option, [first] if equals else [], waiting)
        given.setdefault(name, []).append(values)
    if waiting[:1] == ["--"]:  # what comes next is the root, whatever it looks like
        waiting.pop(0)
    root, rest = (waiting[0], waiting[1:]) if waiting else ("", [])
    if waiting and not root:
        raise HostError("cannot use '' as the root directory", "it is empty")
    if rest[:1] != ["--"]:
        return Arguments(given, root, tuple(rest))
    if not rest[1:]:
        raise HostError("no command after --", "there is nothing to run", "chrootvm ROOTFS -- true")
    return Arguments(given, root, (), tuple(rest[1:]))


def _values(option: Option, values: list[str], waiting: list[str]) -> tuple[str, ...]:
    """Return what an option takes: `values` came with it, the others are the next words."""
    if not option.values and values:
        raise HostError(f"cannot understand {option.name}={values[0]}", "it takes no value")
    if option.optional and not values:
        return ("",)
    missing = len(option.values) - len(values)
    if missing > len(waiting):
        raise HostError(
            f"cannot understand {option.name}",
            f"write {' '.join((option.name, *option.values))}",
        )
    taken, waiting[:missing] = waiting[:missing], []
    if "" in (*values, *taken) and option.name not in _MAY_BE_EMPTY:
        # Of a script's variable that is not set, likely: no reason to share the working directory.
        raise HostError(f"cannot understand {option.name}", "its value is empty")
    return (*values, *taken)


def _unknown(name: str) -> Option:
    from difflib import get_close_matches  # noqa: PLC0415 - only to explain a mistake

    near = get_close_matches(name, _BY_NAME, 1)
    raise HostError(
        f"unknown option {name}",
        "options come before ROOTFS",
        near[0] if near else "chrootvm --help; a ROOTFS like that goes after --",
    )


def usage() -> str:
    """Return what --help shows."""
    lines = [USAGE]
    for option in OPTIONS:
        values = " ".join(option.values)
        syntax = f"{option.name}[={values}]" if option.optional else f"{option.name} {values}"
        lines.append(f"  {syntax:30}  {option.help}")
    return "\n".join(lines) + "\n"
