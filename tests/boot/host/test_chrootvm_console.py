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
def test_the_end_of_init_is_one_sentence_in_place_of_the_panic(
    script: str, expected: int, tmp_path: Path
) -> None:
    status, output, errors = boot(tmp_path, "busybox", "sh", "-c", f"echo hello; {script}")
    assert (status, output) == (expected, "hello\n")
    assert errors == (
        f"chrootvm: busybox ended with status {expected}, and INIT must not end; a program that is "
        f"to end goes after --: chrootvm {assets.busybox_root()} -- "
        f"busybox sh -c 'echo hello; {script}'\n"
    )


@pytest.mark.parametrize("option", ["--verbose", "--debug"])
def test_the_panic_at_the_end_of_init_is_shown_to_those_who_want_messages(
    option: str, tmp_path: Path
) -> None:
    status, output, errors = boot(tmp_path, "busybox", "false", options=(option,))
    assert status == 1
    assert "Kernel panic - not syncing: Attempted to kill init! exitcode=0x00000100" in output
    assert "busybox ended with status 1" in errors


def test_a_program_that_prints_a_panic_loses_none_of_its_output(tmp_path: Path) -> None:
    text = "Kernel panic - not syncing: Attempted to kill init! exitcode=0x00000700"
    script = f"echo '{text}'; sleep 4; echo '{text}'; poweroff -f"
    status, output, errors = boot(tmp_path, "busybox", "sh", "-c", script)
    assert (status, errors) == (0, "")
    assert output.startswith(f"{text}\n{text}\n")


def test_another_panic_is_shown_with_its_reason_and_status_125(tmp_path: Path) -> None:
    words = ("busybox", "sh", "-c", "echo c >/proc/sysrq-trigger")
    status, output, errors = boot(tmp_path, *words)
    assert status == 125
    assert "Kernel panic - not syncing: sysrq triggered crash" in output
    assert errors.startswith("chrootvm: the guest's kernel panicked: sysrq triggered crash")
    kept = Path(errors.split("is kept in ")[1].split(")")[0])
    assert "Call Trace" in kept.read_text(encoding="utf-8")


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
