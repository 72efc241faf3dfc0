"""A boot that never gets to its command: the host is told why, as well as the console."""

from pathlib import Path

import pytest

from initrd.command import Command
from tests.boot.ports import commanded, run

pytestmark = pytest.mark.boot

TRUE = Command((b"true",))


@pytest.mark.parametrize(
    ("command", "append", "told", "words"),
    [
        pytest.param(TRUE, "rootfs=other", "failed boot failed: ", ("other", "no tag"), id="tag"),
        pytest.param(
            TRUE.replace(user=b"eve"), "", "refused cannot run", ("eve", "/etc/passwd"), id="user"
        ),
        pytest.param(
            TRUE.replace(cwd=b"/nowhere"),
            "",
            "refused cannot enter",
            ("/nowhere", "No such"),
            id="cwd",
        ),
    ],
)
def test_the_host_is_told(
    command: Command, append: str, told: str, words: tuple[str, ...], tmp_path: Path
) -> None:
    ended = run(command, str(tmp_path), append=f"initrd.timeout=1 {append}")
    assert ended.message.startswith(told)
    for word in words:
        assert word in ended.message
        assert word in ended.console
    assert "powering off" in ended.console
    assert "Traceback" not in ended.console + ended.message


def test_a_missing_port_is_told_through_the_others(tmp_path: Path) -> None:
    ports = ("initrd.control", "initrd.stdin", "initrd.stdout")
    ended = run(TRUE, str(tmp_path), ports=ports, append="initrd.timeout=1")
    assert "initrd.stderr: no such port after 1 s" in ended.message
    assert "initrd.control, initrd.stdin, initrd.stdout" in ended.message


def test_without_a_line_to_the_host_the_console_has_to_do(tmp_path: Path) -> None:
    with commanded(TRUE, str(tmp_path), ports=(), append="initrd.timeout=1") as host:
        assert host.machine
        console = host.machine.wait().console
    assert "initrd: boot failed: cannot find port initrd.control" in console
    assert "there are none" in console


def test_a_panic_can_be_asked_for_and_is_told_too(tmp_path: Path) -> None:
    ended = run(TRUE.replace(user=b"eve"), str(tmp_path), append="initrd.onfail=panic")
    assert "eve" in ended.message
    assert "Kernel panic" in ended.console
