"""A start that is given up: the time of the caller is over, or a signal has arrived."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from initrd.command import Command
from initrd.host.command.capture import CAPTURED, Outcome, capture_command
from initrd.host.command.interactive import TIMED_OUT, run_command
from initrd.host.command.protocol import LocalStreams
from initrd.host.machine.run import BootObserver, HostStreams
from initrd.host.system.deadline import Deadline
from initrd.host.system.loop import Limit, Loop

if TYPE_CHECKING:
    from initrd.host.command.capture import Session

TOP = Path(__file__).parents[3]


@contextmanager
def never_start(_: LocalStreams, loop: Loop, streams: HostStreams) -> Iterator["Session"]:
    """Stand for `start_session`: wait for a machine that does not start."""
    streams.on_note("a note")
    streams.limit.wait(loop, lambda: False)
    raise AssertionError("the wait has ended")
    yield


@pytest.fixture(autouse=True)
def no_descriptor_left_open() -> Iterator[None]:
    before = sorted(os.listdir("/proc/self/fd"))
    yield
    assert sorted(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize("seconds", [0.0, 0.05])
def test_captured_command_that_does_not_start_in_time_has_no_status(seconds: float) -> None:
    def open_session(
        local: LocalStreams, loop: Loop, limit: Limit
    ) -> AbstractContextManager["Session"]:
        return never_start(local, loop, HostStreams(limit=limit))

    with Path(os.devnull).open("rb") as null:
        outcome = capture_command(open_session, null.fileno(), CAPTURED, CAPTURED, Limit(seconds))
    assert outcome == Outcome(None, b"", b"")


@pytest.mark.parametrize("verbose", [False, True])
def test_command_that_does_not_start_in_time_has_the_status_of_a_timeout(
    capfd: pytest.CaptureFixture[str], verbose: bool
) -> None:
    command, deadline = Command((b"true",)), Deadline(0.05)
    status = run_command(command, never_start, deadline, BootObserver(), verbose=verbose)
    assert status == TIMED_OUT
    stderr = capfd.readouterr().err
    assert "chrootvm: the command had not started after 0.05 s\n" in stderr
    assert ("a note" in stderr) is verbose


@pytest.mark.parametrize("number", [2, 15])
def test_signal_while_a_machine_starts_ends_the_program_by_it(number: int) -> None:
    script = (
        "import os, sys\n"
        "from initrd.command import Command\n"
        "from initrd.host.command import interactive\n"
        "from initrd.host.system.deadline import Deadline\n"
        "from initrd.host.machine.run import BootObserver\n"
        "from tests.host.command.test_cancelled import never_start\n"
        "def start(*words):\n"
        f"    os.kill(os.getpid(), {number})\n"
        "    return never_start(*words)\n"
        "command, observer = Command((b'true',)), BootObserver()\n"
        "interactive.run_command(command, start, Deadline(None), observer, verbose=False)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=TOP,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (-number, "")
