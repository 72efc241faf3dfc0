"""`Process`: exit status, end, inheritance, and errors before the program runs."""

import errno
import os
import select
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from initrd.host.system import process
from initrd.host.system.hosterror import HostError
from initrd.host.system.process import Process, Program, fork, fork_watchdog

REPOSITORY = os.path.abspath(f"{__file__}/../../../..")


def shell(script: str, *descriptors: int) -> Program:
    return Program(("/bin/sh", "-c", script), descriptors)


def is_alive(pid: int) -> bool:
    """Return whether a process exists and is not a zombie."""
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):  # the second: it ended after the open
        return False


def dies_soon(pid: int) -> bool:
    deadline = time.monotonic() + 10
    while is_alive(pid) and time.monotonic() < deadline:
        time.sleep(0.01)
    return not is_alive(pid)


@pytest.mark.parametrize(
    ("script", "status"), [("exit 0", 0), ("exit 7", 7), ("kill -9 $$", -9), ("kill -15 $$", -15)]
)
def test_the_status_of_a_process_is_that_of_its_program(script: str, status: int) -> None:
    with Process(shell(script), 2) as process:
        assert process.wait(10) == status
        assert process.status() == status


def test_the_status_is_none_while_the_program_runs() -> None:
    with Process(shell("sleep 60"), 2) as process:
        assert process.status() is None
        assert process.wait(0.01) is None


def test_a_program_is_ended_when_its_with_block_ends() -> None:
    with Process(shell("sleep 60"), 2) as process:
        pid = process.pid
    assert not is_alive(pid)


def test_a_program_that_ignores_sigterm_is_killed() -> None:
    with Process(shell("trap '' TERM; while :; do sleep 1; done"), 2) as process:
        time.sleep(0.1)
        process.close(timeout=0.2)
    assert process.status() == -signal.SIGKILL


def test_children_that_a_program_leaves_behind_are_killed(tmp_path: Path) -> None:
    pid_file = tmp_path / "pid"
    with Process(shell(f"sleep 60 & echo $! > {pid_file}; exit 3"), 2) as process:
        assert process.wait(10) == 3
        child = int(pid_file.read_text())
        assert is_alive(child)
    assert dies_soon(child)


def test_a_program_inherits_only_the_given_descriptors_and_no_standard_input(
    tmp_path: Path,
) -> None:
    reader, writer = os.pipe()
    not_given = os.open(tmp_path, os.O_RDONLY)
    script = f"exec >/proc/self/fd/{writer}; cat; for fd in /proc/self/fd/*; do readlink $fd; done"
    with Process(shell(script, writer), 2) as process:
        process.wait(10)
    os.close(writer)
    os.close(not_given)
    with open(reader, encoding="utf-8") as pipe:
        listed = pipe.read()
    assert "pipe:" in listed
    assert str(tmp_path) not in listed


def test_a_program_has_the_given_standard_input_and_output() -> None:
    (stdin, writer), (reader, stdout) = os.pipe(), os.pipe()
    program = Program(("/bin/cat",), standard=(stdin, stdout))
    with Process(program, 2) as process:
        os.write(writer, b"through cat")
        for end in (stdin, writer, stdout):
            os.close(end)
        assert process.wait(10) == 0
    with open(reader, "rb") as pipe:
        assert pipe.read() == b"through cat"


def test_a_program_starts_with_no_signal_blocked_and_only_sigxfsz_ignored() -> None:
    reader, writer = os.pipe()
    with Process(
        shell(f"exec grep -E 'Sig(Ign|Blk)' /proc/self/status >/proc/self/fd/{writer}", writer), 2
    ) as process:
        process.wait(10)
    os.close(writer)
    with open(reader, encoding="ascii") as pipe:
        masks = [int(line.split()[1], 16) for line in pipe]
    # The C library keeps the two signals above SIGSYS for itself and refuses to change them.
    of_files = 1 << (signal.SIGXFSZ - 1)
    assert [mask & (1 << signal.SIGSYS) - 1 for mask in masks] == [0, of_files]


def test_a_program_that_does_not_exist_is_named_in_the_error() -> None:
    with pytest.raises(HostError, match=r"cannot start gone: No such file"):
        Process(Program(("/nowhere/gone",)), 2)


def test_an_error_of_the_function_before_exec_is_raised_in_the_parent() -> None:
    def raise_error() -> None:
        raise HostError("cannot share it", "not allowed", "something else")

    with pytest.raises(HostError, match="cannot share it: not allowed\ntry: something else"):
        Process(Program(("/bin/true",), before=raise_error), 2)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_program_dies_when_its_parent_is_killed(number: int) -> None:
    script = (
        "import sys, time; sys.path.insert(0, sys.argv[1])\n"
        "from initrd.host.system.process import Process, Program\n"
        "child = Process(Program(('/bin/sleep', '60')), 2)\n"
        "print(child.pid, flush=True); time.sleep(60)\n"
    )
    command = [sys.executable, "-c", script, REPOSITORY]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout
        pid = int(parent.stdout.readline())
        assert is_alive(pid)
        parent.send_signal(number)
    assert dies_soon(pid)


def test_a_ctrl_c_during_the_fork_leaves_no_process_and_no_descriptor(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pids = []

    def fork_during_ctrl_c() -> int:
        # SIGINT is blocked in this thread until the fork is over; pytest-xdist has others.
        signal.pthread_kill(threading.get_ident(), signal.SIGINT)
        pids.append(fork())
        return pids[-1]

    before = os.listdir("/proc/self/fd")
    monkeypatch.setattr(process, "fork", fork_during_ctrl_c)
    with pytest.raises(KeyboardInterrupt):
        Process(shell("sleep 50"), 2)
    assert not is_alive(pids[0])
    assert len(os.listdir("/proc/self/fd")) == len(before)


def test_a_fork_that_fails_leaves_no_descriptor(monkeypatch: pytest.MonkeyPatch) -> None:
    def failing_fork() -> int:
        raise BlockingIOError(errno.EAGAIN, "no")

    before = os.listdir("/proc/self/fd")
    monkeypatch.setattr(process, "fork", failing_fork)
    with pytest.raises(BlockingIOError):
        Process(shell("exit"), 2)
    assert len(os.listdir("/proc/self/fd")) == len(before)


def test_no_program_is_started_while_sigchld_is_ignored() -> None:
    before = signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    try:
        with pytest.raises(HostError, match="SIGCHLD is ignored"):
            Process(shell("exit"), 2)
    finally:
        signal.signal(signal.SIGCHLD, before)


def test_the_first_function_is_carried_out_when_the_parent_is_killed(tmp_path: Path) -> None:
    program = f"""
import os, signal, sys, time
from initrd.host.system.process import Process, Program

def first():
    os.mkdir({str(tmp_path / "made")!r})
    os.kill(os.getppid(), signal.SIGKILL)
    time.sleep(0.1)
    os.rmdir({str(tmp_path / "made")!r})
    os.mkdir({str(tmp_path / "done")!r})

Process(Program(("/bin/sleep", "60"), first=first), 2)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=False)
    # The pipe of standard error is closed by now: the child has not executed the program.
    assert done.returncode == -signal.SIGKILL
    assert os.listdir(tmp_path) == ["done"]


@pytest.mark.parametrize("is_before", [True, False], ids=["below", "above"])
def test_a_watchdog_keeps_only_the_given_descriptors(is_before: bool) -> None:
    pipes = [os.pipe(), os.pipe()]
    (reader, writer), (kept_reader, kept_writer) = pipes if is_before else reversed(pipes)

    def work() -> None:
        os.write(kept_writer, b"kept")
        time.sleep(60)

    pid = fork_watchdog(work, kept_writer)
    try:
        os.close(writer)
        assert os.read(kept_reader, 4) == b"kept"
        assert select.select([reader], [], [], 0)[0], "the watchdog has a copy of the writer"
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        for end in (reader, kept_reader, kept_writer):
            os.close(end)


def test_a_process_that_is_closed_leaves_no_descriptor() -> None:
    before = os.listdir("/proc/self/fd")
    with Process(shell("exit 0"), 2):
        pass
    assert os.listdir("/proc/self/fd") == before
