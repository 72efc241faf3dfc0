"""A command on a terminal, in a real machine."""

import os
from pathlib import Path

import pytest

from initrd.command import Command
from tests.boot.ports import MachineHost, commanded

pytestmark = pytest.mark.boot

LINES = 1500  # about one in 200 was left when its port had two entries in one poll(2)
SHELL = Command((b"sh", b"-i"), (b"PS1=<$?> ", b"TERM=vt100"), tty=(0, 1, 2), size=(40, 100))


def typed(host: MachineHost, line: str, answer: str) -> None:
    """Type a line, and wait for what it is to bring: what was shown before does not count."""
    shown = len(host.received["tty"])
    host.feed("tty", line.encode())
    host.expect_output("tty", answer.encode(), after=shown)


def job(number: int) -> str:
    """Return the line that starts a job, which says the number once keys are for it.

    What the shell itself says is too early: it may take the terminal's signals still.
    """
    return f"sh -c 'echo $(({number}+0)); exec sleep 1000'\n"


def test_a_shell_has_all_that_a_terminal_gives(tmp_path: Path) -> None:
    with commanded(SHELL, str(tmp_path)) as host:
        host.expect_output("tty", b"<0> ")
        typed(host, "stty size; tty; echo $TERM\n", "40 100\r\n/dev/pts/0\r\nvt100\r\n")
        host.tell("resize 50 132")
        typed(host, "stty size\n", "50 132\r\n")
        typed(host, "stty -a | grep -c ' iutf8'\n", "\r\n1\r\n")
        typed(host, job(42), "\r\n42\r\n")
        typed(host, "\x03", "<130> ")
        typed(host, job(43), "\r\n43\r\n")
        typed(host, "\x1a", "Stopped")
        typed(host, "bg; kill %1; wait %1; echo killed: $?\n", "killed: 143")
        # The shell has left its own line editing when it echoes: Ctrl-D is the end of file then.
        typed(host, "echo $((40+4)); cat >/dev/tty\n", "44\r\n")
        typed(host, "through the terminal\n", "through the terminal\r\n" * 2)
        typed(host, "\x04", "<0> ")
        host.feed("tty", b"exit 9\n")
        ended = host.end()
    assert ended.message == "exit 9"
    assert "initrd:" not in ended.console


def test_no_line_is_left_lying_when_each_follows_the_last_ones_answer(tmp_path: Path) -> None:
    script = b'stty -echo; echo ready; while read -r line; do echo "$line"; done'
    command = Command((b"sh", b"-c", script), tty=(0, 1, 2))
    with commanded(command, str(tmp_path)) as host:
        host.expect_output("tty", b"ready\r\n")
        for number in range(LINES):
            typed(host, f"{number}\n", f"{number}\r\n")
        host.feed("tty", b"\x04")
        assert host.end().message == "exit 0"


def test_a_command_alone_on_a_terminal_dies_of_ctrl_c_and_does_not_stop(tmp_path: Path) -> None:
    script = "stty -echo; ls -l /proc/$$/fd >&2; echo ready; exec sleep 1000"
    command = Command((b"sh", b"-c", os.fsencode(script)), tty=(0, 1))
    with commanded(command, str(tmp_path)) as host:
        host.expect_output("tty", b"ready\r\n")
        host.feed("tty", b"\x1a\x03")
        ended = host.end()
    assert ended.message == "signal 2"
    assert ended.terminal == b"ready\r\n"
    assert ended.stderr.count(b"/dev/pts/0") == 2
    assert b"2 -> pipe:" in ended.stderr
