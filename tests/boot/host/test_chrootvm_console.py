"""chrootvm ROOTFS INIT: the console on standard output, the exit status and failures."""

import hashlib
import os
import shlex
import signal
import subprocess
import time
from contextlib import closing
from pathlib import Path

import pytest

from initrd.host.system.loop import READABLE, is_ready
from testbed import assets
from tests.boot.chrootvm import COMMAND, DEADLINE, chrootvm, run
from tests.boot.terminal import Terminal

pytestmark = pytest.mark.boot


def boot(folder: Path, *words: str, options: tuple[str, ...] = ()) -> tuple[int, str, str]:
    return run(*options, assets.busybox_root(), *words, folder=folder)


@pytest.mark.every_architecture
def test_the_console_is_printed_on_standard_output(tmp_path: Path) -> None:
    status, output, errors = boot(tmp_path, "busybox", "sh", "-c", "echo I am $$; poweroff -f")
    assert (status, errors) == (0, "")
    assert "I am 1\n" in output


@pytest.mark.every_architecture
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


def slow_reader(folder: Path, *options: str) -> tuple[int, str, str]:
    """Boot an INIT that prints 98 kB and exits; read that some time after the machine's end."""
    reader, writer = os.pipe()
    init = ("busybox", "sh", "-c", "seq 15000; exit 7")
    words = (*options, assets.busybox_root(), *init)
    with chrootvm(*words, folder=folder, stdout=writer) as session, open(reader, "rb") as pipe:
        os.close(writer)
        assert is_ready(reader, READABLE, DEADLINE)
        qemu = os.pidfd_open(session.find_pid("qemu-system"))
        assert is_ready(qemu, READABLE, DEADLINE)
        os.close(qemu)
        if options:
            session.process.wait(DEADLINE)
        else:
            time.sleep(5)
        output = pipe.read().decode().replace("\r", "")
        status, _, errors = session.finish()
    return status, output, errors


def test_slow_reader_of_the_console_gets_all_output_and_the_status(tmp_path: Path) -> None:
    status, output, errors = slow_reader(tmp_path)
    assert output == "".join(f"{number}\n" for number in range(1, 15001))
    assert (status, errors[:36]) == (7, "chrootvm: busybox ended with status ")


def test_timeout_ends_a_machine_whose_last_output_is_not_read(tmp_path: Path) -> None:
    status, _, errors = slow_reader(tmp_path, "--timeout", "20")
    what = "the machine has ended, but its output was not all written after 20 s"
    assert (status, errors) == (124, f"chrootvm: {what}\n")


def test_a_program_that_prints_a_panic_loses_none_of_its_output(tmp_path: Path) -> None:
    text = "Kernel panic - not syncing: Attempted to kill init! exitcode=0x00000700"
    script = f"echo '{text}'; sleep 4; echo '{text}'; poweroff -f"
    status, output, errors = boot(tmp_path, "busybox", "sh", "-c", script)
    assert (status, errors) == (0, "")
    assert output.startswith(f"{text}\n{text}\n")


@pytest.mark.every_architecture
def test_another_panic_is_shown_with_its_reason_and_status_125(tmp_path: Path) -> None:
    words = ("busybox", "sh", "-c", "echo c >/proc/sysrq-trigger")
    status, output, errors = boot(tmp_path, *words)
    assert status == 125
    assert "Kernel panic - not syncing: sysrq triggered crash" in output
    assert errors.startswith("chrootvm: the guest's kernel panicked: sysrq triggered crash")
    kept = Path(errors.split("is kept in ")[1].split(")")[0])
    assert "call trace" in kept.read_text(encoding="utf-8").lower()


@pytest.mark.every_architecture
def test_arguments_reach_init(tmp_path: Path) -> None:
    words = ("busybox", "sh", "-c", "for a; do echo =$a.; done; poweroff -f", "zero")
    words = (*words, "", "a  b", "c=d e", "-x", "f.g=h", "quiet")
    assert "=.\n=a b.\n=c=d e.\n=-x.\n=f.g=h.\n=quiet.\n" in boot(tmp_path, *words)[1]


@pytest.mark.every_architecture
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


def test_the_console_has_every_line_of_the_kernels_log(tmp_path: Path) -> None:
    options = ("--verbose", "--append", "loglevel=8")
    words = (assets.busybox_root(), "--", "busybox", "dmesg")
    status, log, errors = run(*options, *words, folder=tmp_path)
    console = {line.strip() for line in errors.replace("\r", "").split("\n")}
    lines = [line.strip() for line in log.split("\n") if line.strip()]
    assert status == 0
    assert len(lines) > 100
    assert [line for line in lines if line not in console] == []


def test_a_reader_of_the_console_that_stops_for_some_time_loses_nothing(tmp_path: Path) -> None:
    script = "echo begin; busybox seq 30000; poweroff -f"
    words = (assets.busybox_root(), "busybox", "sh", "-c", script)
    with chrootvm(*words, folder=tmp_path) as session:
        session.expect("begin")
        time.sleep(4)  # the pipes are full then
        status, output, _ = session.finish()
    assert status == 0
    assert "".join(f"{number}\n" for number in range(1, 30001)) in output


@pytest.mark.parametrize("ending", ["timeout", "signal"])
def test_a_machine_whose_console_is_not_read_can_be_ended(ending: str, tmp_path: Path) -> None:
    words = (assets.busybox_root(), "busybox", "sh", "-c", "echo begin; busybox yes")
    options = ("--timeout", "15") if ending == "timeout" else ()
    with chrootvm(*options, *words, folder=tmp_path) as session:
        session.expect("begin")
        time.sleep(2)
        if ending == "signal":
            session.process.terminate()
        assert session.process.wait(30) == (124 if ending == "timeout" else -signal.SIGTERM)
        assert session.leftovers() == []


def test_input_of_the_console_arrives_as_it_is_read(tmp_path: Path) -> None:
    script = "stty raw -echo; echo begin; head -c 100000 | md5sum; poweroff -f"
    words = (assets.busybox_root(), "busybox", "sh", "-c", script)
    data = b"".join(b"%09d\n" % number for number in range(10_000))
    with chrootvm(*words, folder=tmp_path, stdin=subprocess.PIPE) as session:
        session.expect("begin")
        assert session.process.stdin
        session.process.stdin.write(data)
        session.process.stdin.close()
        session.process.stdin = None
        status, output, _ = session.finish()
    assert (status, hashlib.md5(data, usedforsecurity=False).hexdigest() in output) == (0, True)


def test_ctrl_a_x_ends_a_machine_and_no_key_opens_a_monitor(tmp_path: Path) -> None:
    with closing(Terminal(tmp_path)) as terminal:
        before = terminal.modes()
        script = "stty -icanon -echo; echo it runs; busybox head -c 3 | busybox od -c; sleep 1000"
        terminal.run(
            f"clear; {shlex.join(COMMAND)} {assets.busybox_root()} sh -c '{script}'; echo status $?"
        )
        terminal.expect("it runs")
        terminal.press("C-a")
        terminal.type("h")
        terminal.expect("chrootvm: Ctrl-A X ends the machine")
        terminal.press("C-a")
        terminal.type("cinfo")
        terminal.expect("0000000   i   n   f")
        assert "QEMU" not in terminal.screen()
        terminal.press("C-a")
        terminal.type("x")
        terminal.expect("chrootvm: ended by Ctrl-A X")
        terminal.expect("status 0")
        assert terminal.modes() == before


def test_a_guest_that_halts_ends_its_machine(tmp_path: Path) -> None:
    status, output, errors = boot(tmp_path, "busybox", "halt", "-f")
    assert (status, "reboot: System halted" in output) == (0, True)
    assert errors == (
        "chrootvm: the guest has halted and not switched off (halt -f); its machine was ended\n"
    )


@pytest.mark.usefixtures("start")
def test_a_command_that_halts_the_guest_has_no_status(tmp_path: Path) -> None:
    words = (assets.busybox_root(), "--", "busybox", "halt", "-f")
    status, output, errors = run(*words, folder=tmp_path)
    assert (status, output) == (125, "")
    why = "the guest was halted (halt -f) before the command ended"
    assert errors == f"chrootvm: the machine has ended: {why}\n"
