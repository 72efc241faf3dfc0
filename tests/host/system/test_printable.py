"""Text of others, made safe to print."""

import subprocess
from pathlib import Path

import pytest

from initrd.host.qemu.console import KernelPanic
from initrd.host.system.hosterror import HostError
from initrd.host.system.printable import join_command, printable, printable_lines

FORGED = "a\nok       kernel"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param("plain words", "plain words", id="plain"),
        pytest.param("größer … ✓", "größer … ✓", id="not ASCII"),
        pytest.param(r"C:\x1b", r"C:\x1b", id="backslash"),
        pytest.param("name \udcff\udc9b", r"name \xff\x9b", id="not UTF-8"),
        pytest.param("\x1b]0;title\x07\x1b[2J", r"\x1b]0;title\x07\x1b[2J", id="escape sequences"),
        pytest.param("a\r\n\t\0\x7f", r"a\r\n\t\x00\x7f", id="ASCII controls"),
        pytest.param("a\x85b\x9bc", r"a\u0085b\u009bc", id="C1 controls"),
        pytest.param("a\u2028b\u2029c", r"a\u2028b\u2029c", id="line separators"),
        pytest.param("\u202e\u2066\u061c", r"\u202e\u2066\u061c", id="direction of text"),
        pytest.param("\ud800\U000e0001", r"\ud800\U000e0001", id="no text at all"),
    ],
)
def test_text_that_is_not_printable_is_escaped_once(text: str, expected: str) -> None:
    assert printable(text) == expected
    assert printable(expected) == expected
    assert expected.isprintable()


def test_output_of_a_program_keeps_line_breaks_and_tabs() -> None:
    assert printable_lines("a\n\tb") == "a\n\tb"
    assert printable_lines("a\n\tb\r\x1b\u2028") == r"a\n\tb\r\x1b\u2028".replace(r"\n\t", "\n\t")


@pytest.mark.parametrize(
    "word",
    [
        "plain",
        "two words",
        "it's",
        "é",
        "\x1b[2J",
        "a\nb'c\\d",
        "\udc9b7",
        "\u202eab",
        "",
        "\x01\x7f7",
    ],
)
def test_quoted_command_is_printable_and_the_same_for_a_shell(word: str, tmp_path: Path) -> None:
    command = join_command(["printf", "%s", word])
    assert command.isprintable()
    # bash: not every other shell has the quotes of POSIX.1-2024
    done = subprocess.run(["bash", "-c", command], capture_output=True, check=True, cwd=tmp_path)
    assert done.stdout.decode(errors="surrogateescape") == word


def test_each_part_of_an_error_is_one_line_and_its_attributes_are_as_they_were() -> None:
    error = HostError(FORGED, "\x1b[2J", FORGED)
    escaped = FORGED.replace("\n", r"\n")
    assert str(error) == f"{escaped}: \\x1b[2J\ntry: {escaped}"
    assert (error.what, error.why, error.hint) == (FORGED, "\x1b[2J", FORGED)


def test_report_of_a_panic_keeps_its_line_breaks_only() -> None:
    panic = KernelPanic("panicked", "Oops\r", "--memory 2G")
    panic.report, panic.console = "one\n\x1b[2Jtwo\u2028\r", "/x\ny"
    assert str(panic).split("\n") == [
        r"panicked: Oops\r (the whole console is kept in /x\ny)",
        "try: --memory 2G",
        "one",
        r"\x1b[2Jtwo\u2028\r",
    ]
