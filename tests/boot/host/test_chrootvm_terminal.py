"""chrootvm in a terminal (tmux): keys, window size, job control, and terminal modes afterwards."""

import os
import shlex
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from testbed import assets
from tests.boot.chrootvm import COMMAND
from tests.boot.conftest import WARM_ONLY
from tests.boot.terminal import Terminal

pytestmark = pytest.mark.boot
of_commands = pytest.mark.usefixtures("start")  # an INIT does not start from a template

CHROOTVM = shlex.join(COMMAND)


@pytest.fixture
def terminal(tmp_path: Path) -> Iterator[Terminal]:
    terminal = Terminal(tmp_path)
    yield terminal
    terminal.close()


def check_job_control(terminal: Terminal) -> None:
    """Stop, continue and interrupt a job of the bash that runs in the terminal."""
    terminal.run("sh -c 'echo it runs; exec sleep 1000'")
    terminal.expect("it runs")  # earlier keys would go to bash
    terminal.press("C-z")
    terminal.expect("[1]+  Stopped")
    terminal.run("clear; fg")
    terminal.expect_gone("[1]+  Stopped")
    terminal.expect("sh -c")
    terminal.press("C-c")
    terminal.expect("^C")


@of_commands
def test_a_shell_has_job_control_and_the_size_of_the_window(terminal: Terminal) -> None:
    before = terminal.modes()
    terminal.run(f"clear; {CHROOTVM} --env PS1='there> ' {assets.debian_root()} -- bash --norc")
    terminal.expect("there>")
    terminal.run("tty; stty size")
    terminal.expect("/dev/pts/0")
    terminal.expect("24 80")
    check_job_control(terminal)
    terminal.resize(100, 30)
    terminal.run("clear; stty size")
    terminal.expect("30 100")
    terminal.run("exit 5")
    terminal.expect("here>")  # earlier keys would go to the guest
    terminal.run("echo status $?")
    terminal.expect("status 5")
    assert terminal.modes() == before


@of_commands
def test_a_login_shell_has_job_control_and_its_exit_status_is_that_of_chrootvm(
    terminal: Terminal, start: str
) -> None:
    before = terminal.modes()
    warm = "--warm" if start == "warm" else ""
    terminal.run(f"clear; {CHROOTVM} {warm} {assets.debian_root()}")
    terminal.expect("root@")
    terminal.run("PS1='there> '; clear; echo $0 $PWD $HOME; stty size")
    terminal.expect("-bash / /root")
    terminal.expect("24 80")
    check_job_control(terminal)
    terminal.run("clear; exit 5")
    terminal.expect("here>")
    terminal.run("echo status $?")
    terminal.expect("status 5")
    assert "panic" not in terminal.screen()
    assert terminal.modes() == before


IGNORING = "trap '' HUP INT QUIT TERM TSTP; stty raw -echo; echo it runs; while :; do :; done"


@WARM_ONLY
@of_commands
def test_ctrl_right_bracket_three_times_ends_a_machine_whose_program_ignores_all(
    terminal: Terminal,
) -> None:
    before = terminal.modes()
    for words in ("-- sh", "sh"):  # a command, and an INIT
        command = f'{CHROOTVM} {assets.busybox_root()} {words} -c "{IGNORING}"'
        terminal.run(f"clear; {command}; echo status $?")
        terminal.expect("it runs")
        terminal.press("C-c", "C-z")
        terminal.press("C-]", "C-]", "C-]")
        terminal.expect("chrootvm: ended by Ctrl-] three times")
        terminal.expect("status 137")
        terminal.expect("here>")
        assert terminal.modes() == before


@WARM_ONLY
@of_commands
def test_verbose_option_names_the_key_that_ends_the_machine(terminal: Terminal) -> None:
    terminal.run(f"clear; {CHROOTVM} --verbose {assets.busybox_root()} -- sh 2>&1")
    terminal.expect("chrootvm: Ctrl-] three times within a second ends the machine")
    terminal.run("exit")
    terminal.expect("here>")


@WARM_ONLY
@of_commands
def test_an_editor_draws_its_screen_and_reads_keys(terminal: Terminal) -> None:
    terminal.run(f"clear; {CHROOTVM} {assets.busybox_root()} -- sh -c 'vi /tmp/f; cat /tmp/f'")
    terminal.expect("~")
    terminal.press("i")
    terminal.run("written by hand")
    terminal.type("two lines")
    terminal.expect("two lines")
    terminal.press("Escape")
    terminal.expect("- /tmp/f")  # an earlier key would be part of an escape sequence
    terminal.run(":wq")
    terminal.expect("here>")
    assert "written by hand\ntwo lines\n" in terminal.screen()


@WARM_ONLY
@of_commands
def test_top_draws_its_screen(terminal: Terminal) -> None:
    terminal.run(f"clear; {CHROOTVM} {assets.debian_root()} -- top")
    terminal.expect("Tasks:")
    terminal.press("q")
    terminal.expect("here>")


@WARM_ONLY
@of_commands
def test_the_terminal_modes_are_restored_after_chrootvm_is_killed(
    terminal: Terminal, tmp_path: Path
) -> None:
    before = terminal.modes()
    command = f"{CHROOTVM} {assets.busybox_root()} -- sh -c 'stty; sleep 1000'"
    terminal.run(f"clear; sh -c 'echo $$ >{tmp_path}/pid; exec \"$@\"' sh {command}")
    terminal.expect("speed")
    assert terminal.modes() != before
    os.kill(int((tmp_path / "pid").read_text()), 9)
    terminal.expect_modes(before)
    terminal.run("echo status $?")
    terminal.expect("status 137")


def check_stop_and_fg(terminal: Terminal, folder: Path, words: str, stop: signal.Signals) -> None:
    """Stop a chrootvm in the foreground by a signal; after fg its terminal is raw again."""
    terminal.run("PS1='bash> ' exec bash --norc")
    terminal.expect("bash>")
    before = terminal.modes()
    script = "stty -echo; echo it runs; read words; echo heard $words; sleep 1000"
    command = f"{CHROOTVM} {assets.busybox_root()} {words} -c '{script}'"
    terminal.run(f"clear; sh -c 'echo $$ >{folder}/pid; exec \"$@\"' sh {command}")
    terminal.expect("it runs")
    raw = terminal.modes()
    assert raw != before
    os.kill(int((folder / "pid").read_text()), stop)
    terminal.expect("[1]+  Stopped")
    terminal.run("clear; stty -a | tr ' ' '\\n' | grep -x icanon; fg")
    terminal.expect_modes(raw)
    terminal.run("some words")
    terminal.expect("heard some words")
    terminal.press("C-]", "C-]", "C-]")
    terminal.expect("chrootvm: ended by Ctrl-] three times")
    terminal.expect("bash>")
    assert terminal.modes() == before


STOPS = pytest.mark.parametrize("stop", [signal.SIGTSTP, signal.SIGSTOP], ids=["TSTP", "STOP"])


@WARM_ONLY
@of_commands
@STOPS
def test_terminal_of_a_command_is_raw_again_after_a_stop_from_elsewhere_and_fg(
    terminal: Terminal, tmp_path: Path, stop: signal.Signals
) -> None:
    check_stop_and_fg(terminal, tmp_path, "-- sh", stop)


@STOPS
def test_terminal_of_an_init_is_raw_again_after_a_stop_from_elsewhere_and_fg(
    terminal: Terminal, tmp_path: Path, stop: signal.Signals
) -> None:
    check_stop_and_fg(terminal, tmp_path, "sh", stop)


@WARM_ONLY
@of_commands
def test_a_background_chrootvm_reads_the_terminal_after_fg(terminal: Terminal) -> None:
    terminal.run("PS1='bash> ' exec bash --norc")
    terminal.expect("bash>")
    script = "echo; echo it runs; read words; echo heard $words"
    terminal.run(f"clear; {CHROOTVM} {assets.busybox_root()} -- sh -c '{script}' &")
    terminal.expect("it runs")
    terminal.run("clear; fg")  # bash sends SIGCONT only to a stopped job
    terminal.expect(sys.executable)
    terminal.run("some words")
    terminal.expect("heard some words")
