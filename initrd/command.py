"""Encode and decode the command file, which the host writes and `/init` reads.

The host and the guest both use this module. `docs/command.md` describes the format and the messages
between them. Pure; imports little, because every import makes `/init` slower.
"""

from initrd.record import Record
from initrd.text import parse_natural

HEADER = b"initrd-command 1"
TEMPLATE_HEADER = b"initrd-template 1"  # of a file without a command: see initrd.template
COMMANDS_FILE = b"initrd-commands 2\0end\0"  # content of a file for several commands: `Commands`
STREAMS = ("stdin", "stdout", "stderr")  # by file descriptor
TERMINAL = "tty"
LOGIN_SHELL = b"login"  # value of the record `shell`


class CommandError(ValueError):
    """A command file is invalid, or a command cannot be written to a file."""


class Command(Record):
    """The command to run: arguments, environment, working directory, user and terminal."""

    argv: tuple[bytes, ...]  # empty: a login shell, that of the user
    environ: tuple[bytes, ...] = ()  # each `NAME=VALUE`
    cwd: bytes = b"/"
    user: bytes = b""  # `USER[:GROUP]`; empty: 0:0
    tty: tuple[int, ...] = ()  # which of the descriptors 0, 1, 2 are the terminal
    size: tuple[int, int] = (24, 80)  # rows, columns

    @property
    def ports(self) -> tuple[str, ...]:
        """The names of the virtio-serial ports that the command needs."""
        streams = tuple(name for fd, name in enumerate(STREAMS) if fd not in self.tty)
        names = ("control", *streams, *((TERMINAL,) if self.tty else ()))
        return tuple(f"initrd.{name}" for name in names)


class Commands(Record):
    """In place of a command: the host sends commands while the machine runs (initrd.frames)."""

    ports: tuple[str, ...] = ("initrd.control",)


def dump(command: "Command | Commands") -> bytes:
    """Return the content of the command file. Raises CommandError if `load` would refuse it."""
    if isinstance(command, Commands):
        return COMMANDS_FILE
    records = [HEADER]
    records += [b"arg=" + word for word in command.argv] or [b"shell=" + LOGIN_SHELL]
    records += [b"env=" + variable for variable in command.environ]
    records += [b"cwd=" + command.cwd]
    records += [b"user=" + command.user] if command.user else []
    if command.tty:
        records += [b"tty=" + "".join(str(fd) for fd in command.tty).encode()]
        records += [b"size=%d %d" % command.size]
    if any(b"\0" in record for record in records):
        raise CommandError("a NUL byte in the command, its environment, directory or user")
    data = b"\0".join([*records, b"end", b""])
    load(data)
    return data


def load(data: bytes) -> Command:
    """Return the command of a file's content. Raises CommandError with the reason."""
    records = data.split(b"\0")
    if records[0] != HEADER:
        raise CommandError(f"it begins with {records[0][:40]!r}, not with {HEADER!r}")
    if records[-2:] != [b"end", b""] or len(records) < 3:
        raise CommandError("its end is missing")
    argv: list[bytes] = []
    environ: list[bytes] = []
    values: dict[bytes, bytes] = {}
    for record in records[1:-2]:
        key, _, value = record.partition(b"=")
        if key == b"arg":
            argv.append(value)
        elif key == b"env":
            environ.append(value)
        elif key in values:
            raise CommandError(f"more than one record {key!r}")
        else:
            values[key] = value
    command = _build_command(tuple(argv), tuple(environ), values)
    _check_command(command)
    return command


def _build_command(
    argv: tuple[bytes, ...], environ: tuple[bytes, ...], values: dict[bytes, bytes]
) -> Command:
    """Return a command. Few operations: a machine that has just started executes each slowly."""
    cwd, user = values.pop(b"cwd", b"/"), values.pop(b"user", b"")
    tty, size = values.pop(b"tty", None), values.pop(b"size", None)
    shell = values.pop(b"shell", None)
    if values:
        raise CommandError(f"unknown records: {b', '.join(values)!r}")
    _check_program(argv, shell)
    tty_fds = _parse_tty(tty) if tty else ()
    rows_columns = Command.size if size is None else _parse_size(size)
    return Command(argv, environ, cwd, user, tty_fds, rows_columns)


def _check_program(argv: tuple[bytes, ...], shell: "bytes | None") -> None:
    if shell is None:
        if not argv:
            raise CommandError("no arg: there is nothing to run")
    elif shell != LOGIN_SHELL:
        raise CommandError(f"shell={shell[:40]!r}: write shell=login")
    elif argv:
        raise CommandError("both arg and shell: one of them is the program to run")


def _check_command(command: Command) -> None:
    for variable in command.environ:
        if b"=" not in variable[1:]:
            raise CommandError(f"env={variable[:40]!r} is not NAME=VALUE")


def _parse_tty(text: bytes) -> tuple[int, ...]:
    digits = tuple(byte - ord("0") for byte in text)
    if any(digit not in (0, 1, 2) for digit in digits) or len(set(digits)) != len(digits):
        raise CommandError(f"tty={text!r}: write each of the descriptors 0, 1, 2 once")
    return digits


def _parse_size(text: bytes) -> tuple[int, int]:
    words = text.split(b" ")
    numbers = [parse_natural(word.decode("latin-1")) for word in words]
    valid = [number for number in numbers if number is not None and number < 1 << 16]
    if len(words) != 2 or len(valid) != 2:
        raise CommandError(f"size={text!r}: write ROWS COLUMNS")
    return valid[0], valid[1]


def escape(text: str) -> str:
    """Return `text` as one line for a message: backslash and line break become `\\\\` and `\\n`."""
    return text.replace("\\", "\\\\").replace("\n", "\\n")


def unescape(line: str) -> str:
    """Return the text of a line that `escape` has made."""
    return line.replace("\\\\", "\0").replace("\\n", "\n").replace("\0", "\\")
