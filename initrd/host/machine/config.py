"""Convert the parsed options of chrootvm to `Machine`, the virtual machine that they describe.

Raises HostError for invalid options. Of the host, only the terminal is examined.
"""

import os

from initrd.command import Command, Commands
from initrd.host.machine.cli import Arguments, default_of
from initrd.host.qemu.argv import Disk, PublishedPort
from initrd.host.system import terminal
from initrd.host.system.hosterror import HostError
from initrd.host.system.terminal import STDERR, STDIN, STDOUT
from initrd.options import OVERLAY_IN_MEMORY, BootOptions, Share
from initrd.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

_FOR_COMMANDS = ("--env", "--chdir", "--user")
# With --report: /init prints each step, and the kernel little (of both words the last one counts).
_REPORT_WORDS = ("debug", "quiet")


class Machine(Record):
    """A virtual machine that boots a directory. Defaults are those of the options in `cli`."""

    root: Share
    shares: tuple[Share, ...] = ()  # further directories
    init: str = BootOptions.init  # a bare name is looked up in the root
    arguments: tuple[str, ...] = ()  # of INIT
    # To run as a child of /init; `init` is then ignored. Commands: several, while it runs.
    command: Command | Commands | None = None
    overlay: str = ""  # empty: none; OVERLAY_IN_MEMORY; or the absolute path of a disk image
    disk: tuple[Disk, ...] = ()  # further disks, in addition to that of the overlay
    memory: int = default_of("--memory")  # bytes
    cpus: int = default_of("--cpus")
    accel: str = default_of("--accel")
    machine: str = ""  # value of QEMU's -machine; empty: the architecture's
    arch: str = ""  # empty: the root's, or the host's
    kernel: str = ""  # empty: the root's newest
    modules: str = ""  # empty: those of the kernel
    module: tuple[str, ...] = ()  # further modules to load
    kaslr: bool = False  # start the kernel at a random address, from its compressed image
    init_program: str = ""  # path of the image's `/init`; empty: `locate.find_init` searches
    append: tuple[str, ...] = ()  # to the kernel command line
    network: str = ""  # empty: none; one of devices.NETWORKS
    publish: tuple[PublishedPort, ...] = ()  # ports of the guest
    gdb: int | None = None  # TCP port of the loopback for gdb; 0: a unix socket; None: no gdb
    warm: bool = False  # start from a template where that is possible
    cache_limit: int = default_of("--cache-limit")  # bytes of all templates
    debug: bool = False  # /init prints every step
    quiet: bool = True  # the kernel prints errors only
    qemu: str = ""
    virtiofsd: str = ""
    unprotected_read_only: bool = False  # as Virtiofsd.unprotected
    qemu_arguments: tuple[str, ...] = ()

    @property
    def has_overlay_disk(self) -> bool:
        """Whether the overlay is kept in a disk image, which is the first disk."""
        return self.overlay not in ("", OVERLAY_IN_MEMORY)

    @property
    def disks(self) -> tuple[Disk, ...]:
        """All disks, in the order in which the guest names them."""
        overlay = (Disk(self.overlay, overlay=True),) if self.has_overlay_disk else ()
        return (*overlay, *self.disk)


def parse_machine(arguments: Arguments, command: Command | Commands | None = None) -> Machine:
    """Return the machine that the options describe, with the command to run in it, if any."""
    fields = arguments.fields()
    init = arguments.init or (BootOptions.init,)
    shows_console = arguments.has("--verbose") and command is not None
    machine = Machine(
        init=init[0],
        arguments=init[1:],
        command=command,
        quiet=not (arguments.has("--debug") or shows_console),
        **fields,
    )
    if arguments.has("--report"):
        machine = machine.replace(append=(*machine.append, *_REPORT_WORDS))
    return machine


def parse_command(
    arguments: Arguments, environment: "Mapping[str, str]", tty: tuple[int, ...]
) -> Command | None:
    """Return COMMAND, or the login shell, with its settings; None when an INIT is given.

    `tty`: which of its descriptors are to be a terminal.
    """
    if arguments.init:
        check_no_settings(arguments, "it is for -- COMMAND and the shell, not for INIT")
        return None
    term = [f"TERM={environment['TERM']}"] if tty and "TERM" in environment else []
    given = [parse_variable(word, environment) for word in arguments.values("--env")]
    return Command(
        argv=tuple(map(os.fsencode, arguments.command or ())),
        environ=tuple(os.fsencode(word) for word in (*term, *given) if word),
        cwd=os.fsencode(arguments.value("--chdir")),
        user=os.fsencode(arguments.value("--user")),
        tty=tty,
        size=terminal.terminal_size(STDOUT) if tty else Command.size,
    )


def check_no_settings(arguments: Arguments, why: str) -> None:
    """Raise HostError, with the reason `why`, for an option of a COMMAND where there is none."""
    for name in _FOR_COMMANDS:
        if arguments.has(name):
            raise HostError(f"cannot use {name}", why)


def parse_variable(word: str, environment: "Mapping[str, str]") -> str:
    """Return NAME=VALUE for --env. A NAME alone has its value here; empty where it has none."""
    name, equals, _ = word.partition("=")
    if not name:
        raise HostError(f"cannot set {word!r}", "there is no name before the =")
    if equals:
        return word
    return f"{name}={environment[name]}" if name in environment else ""


def command_terminals() -> tuple[int, ...]:
    """Return which of COMMAND's descriptors are to be a terminal.

    Input and output must both be terminals here, or typed input would not be displayed. This
    process must be in the foreground: in the background the terminal belongs to another job.
    """
    if not terminal.is_terminal(STDIN, STDOUT) or not terminal.in_foreground(STDIN):
        return ()
    return (STDIN, STDOUT, STDERR) if terminal.is_terminal(STDERR) else (STDIN, STDOUT)
