"""The exit status or signal of a command in a real machine is reported to the host."""

import os
from pathlib import Path

import pytest

from initrd.command import Command
from tests.boot.command_machine import CommandResult, run
from tests.boot.conftest import WARM_ONLY

pytestmark = [pytest.mark.boot, pytest.mark.usefixtures("start")]


def sh(script: str) -> Command:
    return Command((b"sh", b"-c", os.fsencode(script)))


@WARM_ONLY
@pytest.mark.parametrize(
    ("command", "message"),
    [
        pytest.param(Command((b"true",)), "exit 0", id="success"),
        pytest.param(sh("exit 255"), "exit 255", id="the largest status"),
        pytest.param(sh("kill -TERM $$"), "signal 15", id="death by a signal"),
        pytest.param(sh("kill -TERM 1; sleep 60"), "signal 15", id="a signal to PID 1"),
        pytest.param(Command((b"no-such-command",)), "exit 127", id="not in PATH"),
        pytest.param(Command((b"/no/such/file",)), "exit 127", id="no such file"),
        pytest.param(Command((b"/etc",)), "exit 126", id="a directory"),
    ],
)
def test_exit_status_or_signal_of_the_command_reaches_the_host(
    command: Command, message: str, tmp_path: Path
) -> None:
    ended = run(command, str(tmp_path))
    assert ended.message == message
    assert ended.message == ended.messages[-1]
    assert_init_reports_no_error(ended)


def test_host_gets_a_warning_why_the_command_cannot_be_executed(tmp_path: Path) -> None:
    ended = run(Command((b"no-such-command",), (b"PATH=/a:/b",)), str(tmp_path))
    assert "warning cannot run no-such-command: not found in PATH (/a:/b)" in ended.messages
    assert (ended.stdout, ended.stderr) == (b"", b"")


def assert_init_reports_no_error(ended: CommandResult) -> None:
    assert "initrd:" not in ended.console
    assert "Kernel panic" not in ended.console
