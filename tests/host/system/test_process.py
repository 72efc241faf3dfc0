"""Programs that we start: they end with us, and what goes wrong before they run is told."""

import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from initrd.errors import HostError
from initrd.host.system import process
from initrd.host.system.process import Process, Program, fork

TOP = os.path.abspath(f"{__file__}/../../../..")


def shell(script: str, *descriptors: int) -> Program:
    return Program(("/bin/sh", "-c", script), descriptors)


def is_alive(pid: int) -> bool:
    """A zombie whose parent does not care is as dead as one that is gone."""
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def eventually_dead(pid: int) -> bool:
    deadline = time.monotonic() + 10
    while is_alive(pid) and time.monotonic() < deadline:
        time.sleep(0.01)
    return not is_alive(pid)


@pytest.mark.parametrize(
    ("script", "status"), [("exit 0", 0), ("exit 7", 7), ("kill -9 $$", -9), ("kill -15 $$", -15)]
)
def test_the_status_is_the_programs(script: str, status: int) -> None:
    with Process(shell(script), 2) as process:
        assert process.wait(10) == status
        assert process.status() == status


def test_a_program_that_runs_has_no_status() -> None:
    with Process(shell("sleep 60"), 2) as process:
        assert process.status() is None
        assert process.wait(0.01) is None


def test_it_is_gone_when_the_block_ends() -> None:
    with Process(shell("sleep 60"), 2) as process:
        pid = process.pid
    assert not is_alive(pid)


def test_one_that_does_not_listen_is_killed() -> None:
    with Process(shell("trap '' TERM; while :; do sleep 1; done"), 2) as process:
        time.sleep(0.1)
        process.close(patience=0.2)
    assert process.status() == -signal.SIGKILL


def test_what_it_has_started_goes_with_it(tmp_path: Path) -> None:
    note = tmp_path / "pid"
    with Process(shell(f"sleep 60 & echo $! > {note}; exit 3"), 2) as process:
        assert process.wait(10) == 3
        child = int(note.read_text())
        assert is_alive(child)
    assert eventually_dead(child)


def test_it_inherits_what_it_is_given_and_no_standard_input(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    secret = os.open(tmp_path, os.O_RDONLY)
    script = f"exec >/proc/self/fd/{writer}; cat; for fd in /proc/self/fd/*; do readlink $fd; done"
    with Process(shell(script, writer), 2) as process:
        process.wait(10)
    os.close(writer)
    os.close(secret)
    with open(reader, encoding="utf-8") as pipe:
        said = pipe.read()
    assert "pipe:" in said
    assert str(tmp_path) not in said


def test_signals_are_as_a_program_expects_them() -> None:
    reader, writer = os.pipe()
    with Process(
        shell(f"exec grep -E 'Sig(Ign|Blk)' /proc/self/status >/proc/self/fd/{writer}", writer), 2
    ) as it:
        it.wait(10)
    os.close(writer)
    with open(reader, encoding="ascii") as pipe:
        masks = [int(line.split()[1], 16) for line in pipe]
    # The two above SIGSYS are the C library's own, and not ours to change.
    assert [mask & (1 << signal.SIGSYS) - 1 for mask in masks] == [0, 0]


def test_a_program_that_does_not_exist_is_named() -> None:
    with pytest.raises(HostError, match=r"cannot start gone: No such file"):
        Process(Program(("/nowhere/gone",)), 2)


def test_what_fails_right_before_it_runs_is_told() -> None:
    def refuse() -> None:
        raise HostError("cannot share it", "not allowed", "something else")

    with pytest.raises(HostError, match="cannot share it: not allowed\ntry: something else"):
        Process(Program(("/bin/true",), before=refuse), 2)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_it_dies_with_us_however_we_die(number: int) -> None:
    script = (
        "import sys, time; sys.path.insert(0, sys.argv[1])\n"
        "from initrd.host.system.process import Process, Program\n"
        "it = Process(Program(('/bin/sleep', '60')), 2)\n"
        "print(it.pid, flush=True); time.sleep(60)\n"
    )
    command = [sys.executable, "-c", script, TOP]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as us:
        assert us.stdout
        pid = int(us.stdout.readline())
        assert is_alive(pid)
        us.send_signal(number)
    assert eventually_dead(pid)


def test_a_ctrl_c_at_the_start_leaves_nothing_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    pids = []

    def fork_during_ctrl_c() -> int:
        os.kill(os.getpid(), signal.SIGINT)  # it is blocked, until the fork is over
        pids.append(fork())
        return pids[-1]

    before = os.listdir("/proc/self/fd")
    monkeypatch.setattr(process, "fork", fork_during_ctrl_c)
    with pytest.raises(KeyboardInterrupt):
        Process(shell("sleep 50"), 2)
    assert not is_alive(pids[0])
    assert len(os.listdir("/proc/self/fd")) == len(before)


def test_a_fork_that_fails_leaves_nothing_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_fork() -> int:
        raise BlockingIOError(errno.EAGAIN, "no")

    before = os.listdir("/proc/self/fd")
    monkeypatch.setattr(process, "fork", no_fork)
    with pytest.raises(BlockingIOError):
        Process(shell("exit"), 2)
    assert len(os.listdir("/proc/self/fd")) == len(before)


def test_where_ends_are_not_told_nothing_is_started() -> None:
    before = signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    try:
        with pytest.raises(HostError, match="SIGCHLD is ignored"):
            Process(shell("exit"), 2)
    finally:
        signal.signal(signal.SIGCHLD, before)
