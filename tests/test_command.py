"""The command file: `load` returns what `dump` was given, and refuses invalid files."""

import pytest

from initrd.command import HEADER, Command, CommandError, dump, escape, load, unescape

ALL_BYTES = bytes(range(1, 256))
COMMANDS = {
    "one word": Command((b"true",)),
    "empty words": Command((b"printf", b"", b"", b"x")),
    "any bytes": Command((ALL_BYTES, ALL_BYTES), (b"X=" + ALL_BYTES,), b"/" + ALL_BYTES, ALL_BYTES),
    "arguments that look like records": Command(
        (b"arg=x", b"end", b"cwd=/"), (b"end=end", b"env=env=x")
    ),
    "the longest that execve accepts": Command((b"x" * 131071,) * 15, (b"Y=" + b"y" * 131000,)),
    "a terminal": Command((b"sh",), tty=(0, 1, 2), size=(65535, 0)),
    "standard error not on the terminal": Command((b"sh",), tty=(0, 1), size=(50, 132)),
    "a user": Command((b"id", b"-u"), user=b"1000:1000"),
    "empty values": Command((b"env",), (b"X=",), cwd=b""),
    "a login shell": Command((), (b"X=1",), user=b"eve", tty=(0, 1, 2), size=(50, 132)),
}


@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS)
def test_load_returns_the_command_that_dump_wrote(command: Command) -> None:
    assert load(dump(command)) == command


@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS)
def test_load_refuses_a_truncated_file(command: Command) -> None:
    data = dump(command)
    lengths = range(len(data)) if len(data) < 5000 else (0, 1, 5000, len(data) // 2, len(data) - 1)
    for length in lengths:
        with pytest.raises(CommandError):
            load(data[:length])


@pytest.mark.parametrize(
    ("records", "message"),
    [
        pytest.param([b"initrd-command 2", b"arg=x", b"end"], "begins with", id="unknown version"),
        pytest.param([b"", b"end"], "begins with", id="no header"),
        pytest.param([HEADER, b"end"], "nothing to run", id="no command"),
        pytest.param([HEADER, b"shell=", b"end"], "shell=b''", id="empty shell"),
        pytest.param([HEADER, b"shell=/bin/sh", b"end"], "write shell=login", id="unknown shell"),
        pytest.param(
            [HEADER, b"arg=x", b"shell=login", b"end"], "both arg and shell", id="two programs"
        ),
        pytest.param([HEADER, b"arg=x"], "its end", id="missing end"),
        pytest.param([HEADER, b"arg=x", b"end", b"arg=y"], "its end", id="record after the end"),
        pytest.param([HEADER, b"arg=x", b"chroot=/x", b"end"], "chroot", id="unknown record"),
        pytest.param([HEADER, b"arg=x", b"", b"end"], "unknown", id="empty record"),
        pytest.param(
            [HEADER, b"arg=x", b"cwd=/a", b"cwd=/b", b"end"], "more than one", id="duplicate record"
        ),
        pytest.param([HEADER, b"arg=x", b"env=X", b"end"], "NAME=VALUE", id="env without value"),
        pytest.param([HEADER, b"arg=x", b"env==X", b"end"], "NAME=VALUE", id="env without name"),
        pytest.param(
            [HEADER, b"arg=x", b"tty=3", b"end"], "tty", id="tty with an unknown descriptor"
        ),
        pytest.param(
            [HEADER, b"arg=x", b"tty=00", b"end"], "tty", id="tty with a duplicate descriptor"
        ),
        pytest.param([HEADER, b"arg=x", b"size=24", b"end"], "size", id="size of one number"),
        pytest.param([HEADER, b"arg=x", b"size=", b"end"], "size=b''", id="empty size"),
        pytest.param([HEADER, b"arg=x", b"size", b"end"], "size=b''", id="size without a value"),
        pytest.param([HEADER, b"arg=x", b"size=24 -1", b"end"], "size", id="negative size"),
        pytest.param([HEADER, b"arg=x", b"size=24 65536", b"end"], "size", id="size too large"),
    ],
)
def test_load_names_the_invalid_record(records: list[bytes], message: str) -> None:
    with pytest.raises(CommandError, match=message):
        load(b"".join(record + b"\0" for record in records))


@pytest.mark.parametrize(
    "record", [b"shell=login", b"cwd=/", b"user=0", b"tty=0", b"tty=", b"size=1 1", b"size="]
)
def test_load_refuses_a_second_record_of_each_kind_but_arg_and_env(record: bytes) -> None:
    key = record.partition(b"=")[0]
    for second in (record, key + b"=", key):
        records = [HEADER, b"arg=x", record, b"env=A=1", second, b"end", b""]
        with pytest.raises(CommandError, match=rf"more than one record {key!r}"):
            load(b"\0".join(records))


def test_login_shell_is_a_record_in_the_place_of_arguments() -> None:
    assert dump(Command(())).split(b"\0") == [HEADER, b"shell=login", b"cwd=/", b"end", b""]


def test_load_names_every_unknown_record() -> None:
    with pytest.raises(CommandError, match=r"unknown records: b'root, , argv'"):
        load(b"\0".join([HEADER, b"arg=x", b"root=/", b"=x", b"argv=y", b"end", b""]))


def test_load_keeps_the_order_of_arguments_and_variables_between_other_records() -> None:
    records = [HEADER, b"env=B=1", b"arg=b", b"cwd=/x", b"arg=a", b"env=A=2", b"arg=", b"end", b""]
    command = Command((b"b", b"a", b""), (b"B=1", b"A=2"), cwd=b"/x")
    assert load(b"\0".join(records)) == command


def test_load_takes_defaults_for_empty_values_of_optional_records() -> None:
    records = [HEADER, b"arg", b"user=", b"tty=", b"end", b""]
    assert load(b"\0".join(records)) == Command((b"",))


@pytest.mark.parametrize(
    "command",
    [
        Command((b"a\0b",)),
        Command((b"a",), (b"X=\0",)),
        Command((b"a",), (b"X",)),
        Command((b"a",), cwd=b"\0"),
        Command((b"a",), user=b"\0"),
        Command((b"a",), tty=(0, 0)),
        Command((b"a",), tty=(0,), size=(-1, 0)),
    ],
)
def test_dump_refuses_an_invalid_command(command: Command) -> None:
    with pytest.raises(CommandError):
        dump(command)


@pytest.mark.parametrize(
    ("tty", "ports"),
    [
        ((), ["control", "stdin", "stdout", "stderr"]),
        ((0, 1, 2), ["control", "tty"]),
        ((0, 1), ["control", "stderr", "tty"]),
        ((2,), ["control", "stdin", "stdout", "tty"]),
    ],
)
def test_command_lists_only_the_ports_that_it_uses(tty: tuple[int, ...], ports: list[str]) -> None:
    assert Command((b"x",), tty=tty).ports == tuple(f"initrd.{name}" for name in ports)


@pytest.mark.parametrize("text", ["", "a", "a\nb", "\\n", "\\\n\\\\n", "\n\n", "é → ü", "\\\\\\n"])
def test_escape_gives_one_line_and_unescape_restores_the_text(text: str) -> None:
    assert "\n" not in escape(text)
    assert unescape(escape(text)) == text
