"""Boots that fail before the command starts: the host and the console get the reason."""

from pathlib import Path

import pytest

from initrd.command import Command
from tests.boot.command_machine import boot_with_command, run

pytestmark = pytest.mark.boot

TRUE_COMMAND = Command((b"true",))


@pytest.mark.usefixtures("start")
@pytest.mark.parametrize(
    ("command", "append", "prefix", "details"),
    [
        pytest.param(
            TRUE_COMMAND,
            "rootfs=other",
            "failed boot failed: ",
            ("other", "no tag"),
            id="no such tag",
        ),
        pytest.param(
            TRUE_COMMAND.replace(user=b"eve"),
            "",
            "refused cannot run",
            ("eve", "/etc/passwd"),
            id="no such user",
        ),
        pytest.param(
            TRUE_COMMAND.replace(cwd=b"/nowhere"),
            "",
            "refused cannot enter",
            ("/nowhere", "No such"),
            id="no such directory",
        ),
    ],
)
def test_host_gets_the_reason_why_the_command_does_not_start(
    command: Command, append: str, prefix: str, details: tuple[str, ...], tmp_path: Path
) -> None:
    ended = run(command, str(tmp_path), append=f"initrd.timeout=1 {append}")
    assert ended.message.startswith(prefix)
    for text in details:
        assert text in ended.message
        assert text in ended.console
    assert "powering off" in ended.console
    assert "Traceback" not in ended.console + ended.message


def test_missing_port_is_reported_to_the_host_through_the_control_port(tmp_path: Path) -> None:
    ports = ("initrd.control", "initrd.stdin", "initrd.stdout")
    ended = run(TRUE_COMMAND, str(tmp_path), ports=ports, append="initrd.timeout=1")
    assert "initrd.stderr: no such port after 1 s" in ended.message
    assert "initrd.control, initrd.stdin, initrd.stdout" in ended.message


def test_missing_control_port_is_reported_on_the_console(tmp_path: Path) -> None:
    with boot_with_command(
        TRUE_COMMAND, str(tmp_path), ports=(), append="initrd.timeout=1"
    ) as host:
        assert host.machine
        console = host.machine.wait().console
    assert "initrd: boot failed: cannot find port initrd.control" in console
    assert "there are none" in console


@pytest.mark.usefixtures("start")
def test_onfail_panic_reports_the_reason_to_the_host_and_panics(tmp_path: Path) -> None:
    ended = run(TRUE_COMMAND.replace(user=b"eve"), str(tmp_path), append="initrd.onfail=panic")
    assert "eve" in ended.message
    assert "Kernel panic" in ended.console
