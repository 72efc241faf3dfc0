"""chrootvm ROOTFS INIT: the console on standard output, the exit status and failures."""

from pathlib import Path

import pytest

from testbed import assets
from tests.boot.chrootvm import run

pytestmark = pytest.mark.boot


def boot(folder: Path, *words: str, options: tuple[str, ...] = ()) -> tuple[int, str, str]:
    return run(*options, assets.busybox_root(), *words, folder=folder)


def test_the_console_is_printed_on_standard_output(tmp_path: Path) -> None:
    status, output, errors = boot(tmp_path, "busybox", "sh", "-c", "echo I am $$; poweroff -f")
    assert (status, errors) == (0, "")
    assert "I am 1\n" in output


@pytest.mark.parametrize(
    ("script", "expected"), [("exit 0", 0), ("exit 7", 7), ("kill -SEGV $$; exit 3", 3)]
)
def test_the_exit_status_is_that_of_init(script: str, expected: int, tmp_path: Path) -> None:
    status, _, errors = boot(tmp_path, "busybox", "sh", "-c", script)
    assert (status, errors) == (expected, "")


def test_arguments_reach_init(tmp_path: Path) -> None:
    words = ("busybox", "sh", "-c", "for a; do echo =$a.; done; poweroff -f", "zero")
    words = (*words, "", "a  b", "c=d e", "-x", "f.g=h", "quiet")
    assert "=.\n=a b.\n=c=d e.\n=-x.\n=f.g=h.\n=quiet.\n" in boot(tmp_path, *words)[1]


def test_a_failed_boot_prints_the_reason(tmp_path: Path) -> None:
    status, output, errors = boot(tmp_path, "/no/such/thing")
    assert status == 125
    assert "initrd: boot failed" in output
    assert errors.startswith("chrootvm: the boot failed: ")
    assert "/no/such/thing" in errors


def test_timeout_option_ends_the_machine_with_status_124(tmp_path: Path) -> None:
    status, _, errors = boot(tmp_path, "busybox", "sleep", "1000", options=("--timeout", "5"))
    assert status == 124
    assert "still runs after 5 s" in errors


def test_an_error_message_from_qemu_is_printed(tmp_path: Path) -> None:
    status, _, errors = boot(tmp_path, "sh", options=("--qemu-arg", "-nonsense"))
    assert status == 125
    assert "-nonsense: invalid option" in errors


def test_a_missing_share_directory_is_named(tmp_path: Path) -> None:
    status, _, errors = boot(tmp_path, "sh", options=("--mount", "d", f"{tmp_path}/gone"))
    assert status == 125
    assert errors == f"chrootvm: cannot share {tmp_path}/gone: No such file or directory\n"
