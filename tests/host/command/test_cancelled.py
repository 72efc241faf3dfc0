"""A start that is given up: the time of the caller is over, or a signal has arrived."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from initrd.command import Command
from initrd.host.command import capture, interactive
from initrd.host.command.capture import CAPTURED, Outcome, capture_command
from initrd.host.command.interactive import TIMED_OUT, run_command
from initrd.host.command.protocol import LocalStreams
from initrd.host.machine.launch import Launch
from initrd.host.machine.run import BootObserver, HostStreams
from initrd.host.system.loop import Loop

TOP = Path(__file__).parents[3]


@contextmanager
def never_start(
    launch: Launch, local: LocalStreams, loop: Loop, streams: HostStreams
) -> Iterator[None]:
    """Stand for `start_session`: wait for a machine that does not start."""
    streams.on_note("a note")
    streams.limit.wait(loop, lambda: False)
    yield


@pytest.fixture(autouse=True)
def no_descriptor_left_open() -> Iterator[None]:
    before = sorted(os.listdir("/proc/self/fd"))
    yield
    assert sorted(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize("seconds", [0.0, 0.05])
def test_captured_command_that_does_not_start_in_time_has_no_status(
    monkeypatch: pytest.MonkeyPatch, seconds: float
) -> None:
    monkeypatch.setattr(capture, "start_session", never_start)
    with Path(os.devnull).open("rb") as null:
        outcome = capture_command(None, null.fileno(), CAPTURED, CAPTURED, seconds)
    assert outcome == Outcome(None, b"", b"")


@pytest.mark.parametrize("verbose", [False, True])
def test_command_that_does_not_start_in_time_has_the_status_of_a_timeout(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], verbose: bool
) -> None:
    monkeypatch.setattr(interactive, "start_session", never_start)
    status = run_command(Command((b"true",)), None, 0.05, BootObserver(), verbose=verbose)
    assert status == TIMED_OUT
    stderr = capfd.readouterr().err
    assert "after 0.05 s" in stderr
    assert ("a note" in stderr) is verbose


@pytest.mark.parametrize("number", [2, 15])
def test_signal_while_a_machine_starts_ends_the_program_by_it(number: int) -> None:
    script = (
        "import os, sys\n"
        "from initrd.command import Command\n"
        "from initrd.host.command import interactive\n"
        "from initrd.host.machine.run import BootObserver\n"
        "from tests.host.command.test_cancelled import never_start\n"
        "def start(*words):\n"
        f"    os.kill(os.getpid(), {number})\n"
        "    return never_start(*words)\n"
        "interactive.start_session = start\n"
        "interactive.run_command(Command((b'true',)), None, None, BootObserver(), verbose=False)\n"
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
