"""The messages for a template: its file in the image, and what a machine that starts from it gets.

A template is a machine that is saved while `/init` waits for a command, and started many times. The
host and the guest both use this module. `docs/command.md` describes the formats. Pure.
"""

from initrd.command import (
    COMMANDS_FILE,
    STREAMS,
    TEMPLATE_HEADER,
    TERMINAL,
    Command,
    CommandError,
    Commands,
    dump,
    load,
)
from initrd.record import Record
from initrd.text import decode, encode

START_HEADER = b"initrd-start 1"
# A template has all ports, because it does not know the command.
PORTS = tuple(f"initrd.{name}" for name in ("control", *STREAMS, TERMINAL))
SEED_SIZE = 64  # bytes
# The last bytes of a start, and of nothing before its end: other records have a `=`.
END = b"\0end\0"
_AFTER_SLOT = {False: b"network=0\0end\0", True: b"network=1\0end\0"}  # in a template's file


class Start(Record):
    """What a machine that starts from a template is to do."""

    cmdline: str  # the kernel command line of a machine that boots for this command
    command: Command | Commands
    seed: bytes  # secret random bytes for this machine only


class Template(Record):
    """What a template has to know."""

    slot: str  # PCI address of the port behind which devices are plugged in at the start
    network: bool = False  # a network device is among them


def dump_template(template: Template) -> bytes:
    """Return the content of the command file for a template: there is no command yet."""
    slot = b"slot=" + encode(template.slot)
    return b"\0".join((TEMPLATE_HEADER, slot, _AFTER_SLOT[template.network]))


def load_template(data: bytes) -> Template:
    """Return what `dump_template` has encoded. Raises CommandError with the reason."""
    header, _, rest = data.partition(b"\0slot=")
    slot, _, rest = rest.partition(b"\0")
    if header != TEMPLATE_HEADER or not slot:
        raise CommandError(f"it begins with {data[:40]!r}, not with {TEMPLATE_HEADER!r} and a slot")
    for network, records in _AFTER_SLOT.items():
        if rest == records:
            return Template(decode(slot), network)
    raise CommandError(f"{rest[:40]!r} is neither network=0 nor network=1, and then the end")


def dump_start(start: Start) -> bytes:
    """Return `start` as bytes. Raises CommandError for a command that cannot be written."""
    cmdline = encode(start.cmdline)
    if b"\0" in cmdline:
        raise CommandError("a NUL byte in the kernel command line")
    head = (START_HEADER, b"seed=" + start.seed.hex().encode(), b"cmdline=" + cmdline)
    return b"\0".join((*head, dump(start.command)))


def load_start(data: bytes) -> Start:
    """Return what `dump_start` has encoded. Raises CommandError with the reason."""
    header, _, rest = data.partition(b"\0seed=")
    seed, _, rest = rest.partition(b"\0cmdline=")
    cmdline, nul, rest = rest.partition(b"\0")
    if header != START_HEADER or not nul:
        raise CommandError(f"it begins with {data[:40]!r}, not with {START_HEADER!r}")
    command = Commands() if rest == COMMANDS_FILE else load(rest)
    return Start(decode(cmdline), command, _parse_seed(seed))


def _parse_seed(digits: bytes) -> bytes:
    """Return a seed. A shorter one is refused: random numbers would be those of the template."""
    try:
        seed = bytes.fromhex(decode(digits))
    except ValueError:
        seed = b""
    if len(seed) != SEED_SIZE:
        raise CommandError(f"its seed is not {SEED_SIZE} bytes as hexadecimal digits")
    return seed
