"""chrootvm: messages about resources and the cache, and the signals that it resets at its start."""

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from initrd.host.chrootvm import TIMED_OUT, explain_end_of_init, run
from initrd.host.machine.cli import parse
from initrd.host.machine.config import Machine
from initrd.host.system.hosterror import HostError
from initrd.host.system.loop import READABLE, is_ready
from initrd.host.system.process import explain_shortage
from initrd.host.vm import plan_command
from tests.host.conftest import write_program


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOSPC])
def test_resource_shortage_is_one_sentence_with_a_hint(number: int) -> None:
    with pytest.raises(HostError) as raised, explain_shortage():
        raise OSError(number, os.strerror(number))
    what, _, hint = str(raised.value).partition("\n")
    assert what == f"cannot go on: {os.strerror(number)}"
    assert hint.startswith("try: ")


def test_other_os_errors_pass_through_shortage_unchanged() -> None:
    with pytest.raises(PermissionError), explain_shortage():
        raise PermissionError(errno.EPERM, "no")


def test_memory_that_is_used_up_is_one_sentence_with_a_hint() -> None:
    with pytest.raises(HostError, match="cannot go on: Cannot allocate memory"), explain_shortage():
        raise MemoryError


@pytest.mark.parametrize(
    "options", [["--mount", "tag", "name"], ["--disk", "name"], ["--kernel", "name"], ["--doctor"]]
)
def test_relative_name_in_a_deleted_working_directory_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: list[str]
) -> None:
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    with pytest.raises(HostError, match="the working directory does not exist"), explain_shortage():
        run(parse([*options, "--kernel", "x", "name"]))


def test_reset_signals_restores_the_defaults_of_sigint_and_sigchld() -> None:
    script = (
        "import os, signal; signal.signal(signal.SIGCHLD, signal.SIG_IGN)\n"
        "from initrd.host.chrootvm import reset_signals; reset_signals()\n"
        "print(signal.getsignal(signal.SIGCHLD).name, flush=True)\n"
        "os.kill(os.getpid(), signal.SIGINT)"
    )
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (-2, "SIG_DFL\n", "")


def test_reset_signals_keeps_an_ignored_sigint_ignored() -> None:
    script = (
        "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)\n"
        "from initrd.host.chrootvm import reset_signals; reset_signals()\n"
        "print(signal.getsignal(signal.SIGINT).name)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert done.stdout == "SIG_IGN\n"


@pytest.mark.parametrize(
    ("status", "ended"),
    [
        (0, "ended with status 0"),
        (255, "ended with status 255"),
        (-11, "was killed by signal 11"),
    ],
)
def test_end_of_init_is_one_sentence_with_the_command_to_use(status: int, ended: str) -> None:
    message = explain_end_of_init(status, parse(["--rw", "/my root", "/bin/echo", "a b"]))
    assert message == (
        f"/bin/echo {ended}, and INIT must not end; a program that is to end goes after --: "
        "chrootvm '/my root' -- /bin/echo 'a b'"
    )


@pytest.mark.parametrize("option", ["--env=A=b", "--chdir=/tmp", "--user=eve"])
def test_setting_of_a_command_is_refused_for_a_machine_that_only_stays(option: str) -> None:
    with pytest.raises(HostError, match=r"no COMMAND is to run; it goes with --in NAME"):
        run(parse(["--name", "one", "--detach", option, "/"]))


def words_of(machine: Machine) -> list[str]:
    """Return the options for the programs of a machine, and its root."""
    modules = Path(machine.root.source, "usr/lib/modules/6.1/modules.builtin")
    modules.write_text(modules.read_text() + "a/virtio_console.ko\n")
    programs = ("--qemu", machine.qemu, "--virtiofsd", machine.virtiofsd)
    return [*programs, "--init", machine.init_program, "--accel", "tcg", machine.root.source]


@pytest.fixture
def unsafe_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The directory of a cache in which other users can make files."""
    path = tmp_path / "xdg/initrd"
    path.mkdir(parents=True)
    path.chmod(0o777)
    monkeypatch.setenv("XDG_CACHE_HOME", str(path.parent))
    return str(path)


@pytest.mark.parametrize("options", [[], ["--name", "one"]], ids=["", "with a name"])
def test_unsafe_cache_is_told_once(
    machine: Machine, unsafe_cache: str, options: list[str], capfd: pytest.CaptureFixture[str]
) -> None:
    assert run(parse([*options, "--dry-run", *words_of(machine)])) == 0
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith("chrootvm: going without a cache, which takes longer: cannot use the ")
    assert f"{unsafe_cache}: its mode is 0777, not 0700" in line


def test_unsafe_cache_is_a_warning_in_python(machine: Machine, unsafe_cache: str) -> None:
    *options, root = words_of(machine)
    with pytest.warns(RuntimeWarning, match=f"going without a cache.*{unsafe_cache}") as caught:
        launch = plan_command(root, ["true"], options)
    for descriptor in launch.setup.descriptors:
        os.close(descriptor)
    assert len(caught) == 1


PLANNING = "after 0.5 s: it was finding the files and making the image"


def has_ended(pid: int) -> bool:
    """Wait for the end of a process that may be reaped already."""
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return is_ready(pidfd, READABLE, 10.0)
    finally:
        os.close(pidfd)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--qemu SLEEPER ROOT -- true", f"the command had not started {PLANNING}"),
        ("--virtiofsd SLEEPER ROOT -- true", f"the command had not started {PLANNING}"),
        ("--virtiofsd SLEEPER ROOT sh", f"INIT had not started {PLANNING}"),
        ("--virtiofsd SLEEPER --doctor ROOT", "--doctor had not ended after 0.5 s"),
        ("--virtiofsd SLEEPER --dry-run ROOT", f"--dry-run had not ended {PLANNING}"),
        ("--virtiofsd SLEEPER --name=a ROOT", f"the command had not started {PLANNING}"),
        ("--virtiofsd SLEEPER --name=a --detach ROOT", f"the machine had not started {PLANNING}"),
    ],
)
def test_timeout_ends_programs_that_do_not_answer(
    machine: Machine,
    capfd: pytest.CaptureFixture[str],
    words: str,
    message: str,
) -> None:
    *options, root = words_of(machine)
    folder = os.path.dirname(root)
    script = f"sleep 4321 & echo $! >'{folder}/pid'; wait"
    sleeper = write_program(Path(folder, "sleeper"), script)
    given = [{"ROOT": root, "SLEEPER": sleeper}.get(word, word) for word in words.split()]
    assert run(parse([*options, "--timeout", "0.5", *given])) == TIMED_OUT
    assert capfd.readouterr().err == f"chrootvm: {message}\n"
    assert has_ended(int(Path(folder, "pid").read_text()))


def test_timeout_that_is_not_reached_leaves_nothing(machine: Machine) -> None:
    assert run(parse(["--timeout", "60", "--dry-run", *words_of(machine)])) == 0
    assert signal.getitimer(signal.ITIMER_REAL) == (0, 0)
