"""Whatever ends chrootvm, a guest or one of its programs: nothing is left of them."""

import os
import pty
import re
import signal
import termios
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from testbed import assets
from tests.boot.chrootvm import Session, chrootvm

pytestmark = pytest.mark.boot

STAY = ("busybox", "sh", "-c", "echo it is up; sleep 1000")
FAMILIES = {"c": assets.c_virtiofsd, "rust": assets.rust_virtiofsd}


@pytest.fixture(params=FAMILIES)
def family(request: pytest.FixtureRequest) -> tuple[str, str]:
    """Return the options that choose a virtiofsd."""
    return ("--virtiofsd", FAMILIES[request.param]())


@pytest.fixture
def session(family: tuple[str, str], tmp_path: Path) -> Iterator[Session]:
    """A guest that is up and stays so."""
    with chrootvm(*family, assets.busybox_root(), *STAY, folder=tmp_path) as session:
        session.expect("it is up")
        yield session


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_everything_and_is_passed_on(session: Session, number: int) -> None:
    session.process.send_signal(number)
    status, _, errors = session.finish()
    assert (status, errors) == (-number, "")
    assert session.left() == []


def test_nobody_outlives_a_killed_chrootvm(session: Session) -> None:
    assert len(session.running()) >= 3
    session.process.kill()
    session.finish()
    assert session.left() == []


@pytest.mark.parametrize("name", ["qemu-system", "virtiofsd"])
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV])
def test_a_program_that_crashes_is_named(session: Session, name: str, number: int) -> None:
    os.kill(session.find(name), number)
    status, _, errors = session.finish()
    assert status == 125
    assert re.search(f"^chrootvm: .*{name}.* ended with", errors)
    assert session.left() == []


@pytest.mark.parametrize("milliseconds", [0, 30, 60, 90, 120, 150, 200, 300, 500, 1000])
def test_a_signal_at_any_time_of_the_start(milliseconds: int, tmp_path: Path) -> None:
    with chrootvm(assets.busybox_root(), *STAY, folder=tmp_path) as session:
        time.sleep(milliseconds / 1000)
        session.process.terminate()
        status, _, errors = session.finish()
        assert (status, errors) == (-signal.SIGTERM, "")
        assert session.left() == []


@pytest.mark.parametrize(
    "end",
    [
        pytest.param(lambda session: session.process.kill(), id="killed chrootvm"),
        pytest.param(lambda session: session.process.terminate(), id="terminated chrootvm"),
        pytest.param(lambda session: os.kill(session.find("qemu"), 9), id="killed QEMU"),
        pytest.param(lambda session: None, id="power-off"),
    ],
)
def test_the_terminal_is_as_it_was(end: object, tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    before = termios.tcgetattr(theirs)
    script = "echo it is up; read word; poweroff -f"
    words = (assets.busybox_root(), "busybox", "sh", "-c", script)
    with chrootvm(*words, folder=tmp_path, stdin=theirs) as session:
        session.expect("it is up")
        assert termios.tcgetattr(theirs) != before
        end(session)  # type: ignore[operator]
        os.write(ours, b"go\r")
        session.finish()
        assert session.left() == []
        assert termios.tcgetattr(theirs) == before
    os.close(ours)
    os.close(theirs)
