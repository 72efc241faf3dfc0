"""The command file: what the host writes is what `/init` reads."""

import pytest

from initrd.command import HEADER, Command, CommandError, dump, escape, load, unescape

ALL_BYTES = bytes(range(1, 256))
COMMANDS = {
    "one word": Command((b"true",)),
    "empty words": Command((b"printf", b"", b"", b"x")),
    "any bytes": Command((ALL_BYTES, ALL_BYTES), (b"X=" + ALL_BYTES,), b"/" + ALL_BYTES, ALL_BYTES),
    "looks like records": Command((b"arg=x", b"end", b"cwd=/"), (b"end=end", b"env=env=x")),
    "as long as execve takes": Command((b"x" * 131071,) * 15, (b"Y=" + b"y" * 131000,)),
    "a terminal": Command((b"sh",), tty=(0, 1, 2), size=(65535, 0)),
    "half a terminal": Command((b"sh",), tty=(0, 1), size=(50, 132)),
    "a user": Command((b"id", b"-u"), user=b"1000:1000"),
    "empty values": Command((b"env",), (b"X=",), cwd=b""),
}


@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS)
def test_what_is_written_is_read(command: Command) -> None:
    assert load(dump(command)) == command


@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS)
def test_a_file_that_was_cut_off_is_noticed(command: Command) -> None:
    data = dump(command)
    lengths = range(len(data)) if len(data) < 5000 else (0, 1, 5000, len(data) // 2, len(data) - 1)
    for length in lengths:
        with pytest.raises(CommandError):
            load(data[:length])


@pytest.mark.parametrize(
    ("records", "words"),
    [
        pytest.param([b"initrd-command 2", b"arg=x", b"end"], "begins with", id="version"),
        pytest.param([b"", b"end"], "begins with", id="no header"),
        pytest.param([HEADER, b"end"], "nothing to run", id="no command"),
        pytest.param([HEADER, b"arg=x"], "its end", id="no end"),
        pytest.param([HEADER, b"arg=x", b"end", b"arg=y"], "its end", id="after the end"),
        pytest.param([HEADER, b"arg=x", b"chroot=/x", b"end"], "chroot", id="unknown record"),
        pytest.param([HEADER, b"arg=x", b"", b"end"], "unknown", id="empty record"),
        pytest.param([HEADER, b"arg=x", b"cwd=/a", b"cwd=/b", b"end"], "more than one", id="twice"),
        pytest.param([HEADER, b"arg=x", b"env=X", b"end"], "NAME=VALUE", id="env without value"),
        pytest.param([HEADER, b"arg=x", b"env==X", b"end"], "NAME=VALUE", id="env without name"),
        pytest.param([HEADER, b"arg=x", b"tty=3", b"end"], "tty", id="tty is no descriptor"),
        pytest.param([HEADER, b"arg=x", b"tty=00", b"end"], "tty", id="tty twice the same"),
        pytest.param([HEADER, b"arg=x", b"size=24", b"end"], "size", id="size of one number"),
        pytest.param([HEADER, b"arg=x", b"size=24 -1", b"end"], "size", id="negative size"),
        pytest.param([HEADER, b"arg=x", b"size=24 65536", b"end"], "size", id="size too large"),
    ],
)
def test_what_is_not_understood_is_refused_by_name(records: list[bytes], words: str) -> None:
    with pytest.raises(CommandError, match=words):
        load(b"".join(record + b"\0" for record in records))


@pytest.mark.parametrize(
    "command",
    [
        Command(()),
        Command((b"a\0b",)),
        Command((b"a",), (b"X=\0",)),
        Command((b"a",), (b"X",)),
        Command((b"a",), cwd=b"\0"),
        Command((b"a",), user=b"\0"),
        Command((b"a",), tty=(0, 0)),
        Command((b"a",), tty=(0,), size=(-1, 0)),
    ],
)
def test_nothing_is_written_that_would_not_be_read(command: Command) -> None:
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
def test_only_the_ports_in_use_are_needed(tty: tuple[int, ...], ports: list[str]) -> None:
    assert Command((b"x",), tty=tty).ports == tuple(f"initrd.{name}" for name in ports)


@pytest.mark.parametrize("text", ["", "a", "a\nb", "\\n", "\\\n\\\\n", "\n\n", "é → ü", "\\\\\\n"])
def test_a_text_of_many_lines_is_one_line_on_the_way(text: str) -> None:
    assert "\n" not in escape(text)
    assert unescape(escape(text)) == text
