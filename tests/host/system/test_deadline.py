"""The end of a process after a time."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from initrd.host.system.deadline import Deadline, TimeUp


def test_deadline_interrupts_a_system_call(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(TimeUp), Deadline(0.05).enforced():
        os.open(tmp_path / "fifo", os.O_RDONLY)


def test_deadline_interrupts_python_code_and_regular_expressions() -> None:
    with pytest.raises(TimeUp), Deadline(0.05).enforced():
        while True:
            pass
    with pytest.raises(TimeUp), Deadline(0.05).enforced():
        re.search("(a+)+b", "a" * 60)


def test_no_handler_of_exceptions_stops_it() -> None:
    with pytest.raises(TimeUp), Deadline(0.05).enforced():
        try:
            time.sleep(60)
        except Exception:
            pytest.fail("it was stopped")


def test_time_that_is_over_is_noticed_at_once_and_leaves_no_watchdog() -> None:
    children = Path("/proc/thread-self/children")
    processes = children.read_text()
    for _ in range(20):
        with pytest.raises(TimeUp), Deadline(0).enforced():
            time.sleep(60)
    assert children.read_text() == processes


def test_a_loop_may_end_at_the_deadline_by_itself() -> None:
    deadline = Deadline(0.05, grace_period=0.1)
    with pytest.raises(TimeUp), deadline.enforced():
        deadline.leave_to_loop()
        while deadline.remaining():
            pass
        signal.pause()


def test_nothing_is_left_when_the_work_ends_in_time() -> None:
    handler = signal.getsignal(signal.SIGALRM)
    children = Path("/proc/thread-self/children")
    descriptors, processes = os.listdir("/proc/self/fd"), children.read_text()
    with Deadline(1e9 - 1).enforced():
        assert children.read_text() != processes
    assert signal.getsignal(signal.SIGALRM) == handler
    assert signal.getitimer(signal.ITIMER_REAL) == (0, 0)
    assert os.listdir("/proc/self/fd") == descriptors
    assert children.read_text() == processes


def test_without_a_time_nothing_is_done() -> None:
    deadline = Deadline(None)
    with deadline.enforced():
        deadline.leave_to_loop()
        assert signal.getitimer(signal.ITIMER_REAL) == (0, 0)
    assert deadline.remaining() is None


def test_a_process_that_blocks_signals_is_killed() -> None:
    program = (
        "import signal, time\n"
        "from initrd.host.system.deadline import Deadline\n"
        "with Deadline(0.05, grace_period=0.05).enforced():\n"
        "    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())\n"
        "    time.sleep(60)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=30
    )
    assert done.returncode == -signal.SIGKILL
    assert done.stderr == "chrootvm: this process did not end at its --timeout, and was killed\n"


def test_the_watchdog_ends_with_the_process() -> None:
    program = (
        "import os, signal\n"
        "from initrd.host.system.deadline import Deadline\n"
        "with Deadline(60).enforced():\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    # subprocess.run returns when the watchdog, too, has closed standard output.
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, check=False, timeout=30
    )
    assert done.returncode == -signal.SIGKILL
