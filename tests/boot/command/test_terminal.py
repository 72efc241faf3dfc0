"""Commands on a terminal in a real machine."""

import os
from pathlib import Path

import pytest

from initrd.command import Command
from tests.boot.command_machine import MachineHost, boot_with_command
from tests.boot.conftest import WARM_ONLY

pytestmark = [pytest.mark.boot, pytest.mark.usefixtures("start")]

LINES = 1500  # about one in 200 was not read when the port had two entries in one poll(2)
SHELL = Command((b"sh", b"-i"), (b"PS1=<$?> ", b"TERM=vt100"), tty=(0, 1, 2), size=(40, 100))


def type_line(host: MachineHost, line: str, answer: str) -> None:
    """Type a line and wait for its answer in the output that follows."""
    shown = len(host.received["tty"])
    host.write_port("tty", line.encode())
    host.expect_output("tty", answer.encode(), after=shown)


def make_job_line(number: int) -> str:
    """Return the line that starts a foreground job, which prints the number when it runs.

    Output of the shell itself would be too early: the shell may still get the terminal's signals.
    """
    return f"sh -c 'echo $(({number}+0)); exec sleep 1000'\n"


def test_interactive_shell_has_size_signals_job_control_and_end_of_file(tmp_path: Path) -> None:
    with boot_with_command(SHELL, str(tmp_path)) as host:
        host.expect_output("tty", b"<0> ")
        type_line(host, "stty size; tty; echo $TERM\n", "40 100\r\n/dev/pts/0\r\nvt100\r\n")
        host.send("resize 50 132")
        type_line(host, "stty size\n", "50 132\r\n")
        type_line(host, "stty -a | grep -c ' iutf8'\n", "\r\n1\r\n")
        type_line(host, make_job_line(42), "\r\n42\r\n")
        type_line(host, "\x03", "<130> ")
        type_line(host, make_job_line(43), "\r\n43\r\n")
        type_line(host, "\x1a", "Stopped")
        type_line(host, "bg; kill %1; wait %1; echo killed: $?\n", "killed: 143")
        # The output of echo shows that the shell no longer edits the line: Ctrl-D is end of file.
        type_line(host, "echo $((40+4)); cat >/dev/tty\n", "44\r\n")
        type_line(host, "through the terminal\n", "through the terminal\r\n" * 2)
        type_line(host, "\x04", "<0> ")
        host.write_port("tty", b"exit 9\n")
        ended = host.end()
    assert ended.message == "exit 9"
    assert "initrd:" not in ended.console


@WARM_ONLY
def test_each_line_typed_after_an_answer_is_delivered(tmp_path: Path) -> None:
    script = b'stty -echo; echo ready; while read -r line; do echo "$line"; done'
    command = Command((b"sh", b"-c", script), tty=(0, 1, 2))
    with boot_with_command(command, str(tmp_path)) as host:
        host.expect_output("tty", b"ready\r\n")
        for number in range(LINES):
            type_line(host, f"{number}\n", f"{number}\r\n")
        host.write_port("tty", b"\x04")
        assert host.end().message == "exit 0"


def test_command_without_a_shell_dies_of_ctrl_c_and_does_not_stop_at_ctrl_z(tmp_path: Path) -> None:
    script = "stty -echo; ls -l /proc/$$/fd >&2; echo ready; exec sleep 1000"
    command = Command((b"sh", b"-c", os.fsencode(script)), tty=(0, 1))
    with boot_with_command(command, str(tmp_path)) as host:
        host.expect_output("tty", b"ready\r\n")
        host.write_port("tty", b"\x1a\x03")
        ended = host.end()
    assert ended.message == "signal 2"
    assert ended.terminal == b"ready\r\n"
    assert ended.stderr.count(b"/dev/pts/0") == 2
    assert b"2 -> pipe:" in ended.stderr
