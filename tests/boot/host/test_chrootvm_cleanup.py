"""No process, file or mount is left, however chrootvm, QEMU or virtiofsd ends."""

import os
import pty
import re
import signal
import termios
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from testbed import assets
from tests.boot.chrootvm import Session, chrootvm

pytestmark = pytest.mark.boot

SLEEPING_INIT = ("busybox", "sh", "-c", "echo it is up; sleep 1000")
SLEEPING_COMMAND = ("--", "sh", "-c", "echo it is up; sleep 1000")
FAMILIES = {"c": assets.c_virtiofsd, "rust": assets.rust_virtiofsd}


@pytest.fixture(params=FAMILIES)
def virtiofsd_options(request: pytest.FixtureRequest) -> tuple[str, str]:
    """Return the options that select a virtiofsd."""
    return ("--virtiofsd", FAMILIES[request.param]())


@contextmanager
def sleeping(*words: str, folder: Path) -> Iterator[Session]:
    """Start a chrootvm; wait until its guest sleeps."""
    with chrootvm(*words, folder=folder) as session:
        session.expect("it is up")
        yield session


@pytest.fixture
def session(virtiofsd_options: tuple[str, str], tmp_path: Path) -> Iterator[Session]:
    """A chrootvm whose guest has booted and sleeps."""
    words = (*virtiofsd_options, assets.busybox_root(), *SLEEPING_INIT)
    with sleeping(*words, folder=tmp_path) as session:
        yield session


@pytest.fixture(params=["an INIT", "a command in a machine of a template"])
def any_session(
    request: pytest.FixtureRequest, virtiofsd_options: tuple[str, str], tmp_path: Path
) -> Iterator[Session]:
    """A chrootvm whose guest sleeps: as INIT after a boot, or as a command."""
    is_init = request.param == "an INIT"
    words = SLEEPING_INIT if is_init else SLEEPING_COMMAND
    start = () if is_init else ("--warm",)
    root = assets.busybox_root()
    with sleeping(*start, *virtiofsd_options, root, *words, folder=tmp_path) as session:
        yield session


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_chrootvm_without_leftovers(session: Session, number: int) -> None:
    session.process.send_signal(number)
    status, _, errors = session.finish()
    assert (status, errors) == (-number, "")
    assert session.leftovers() == []


def test_a_killed_chrootvm_leaves_no_process_or_file(any_session: Session) -> None:
    assert len(any_session.running_pids()) >= 3
    any_session.process.kill()
    any_session.finish()
    assert any_session.leftovers() == []


@pytest.mark.parametrize("name", ["qemu-system-x86_64", "virtiofsd"])
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV])
def test_the_message_names_a_crashed_program(any_session: Session, name: str, number: int) -> None:
    os.kill(any_session.find_pid(name), number)
    status, _, errors = any_session.finish()
    assert status == 125
    assert re.search(f"^chrootvm: .*{name}.* ended with", errors)
    assert any_session.leftovers() == []


@pytest.mark.parametrize("milliseconds", [0, 30, 60, 90, 120, 150, 200, 300, 500, 1000])
def test_sigterm_during_the_start_leaves_no_process_or_file(
    milliseconds: int, tmp_path: Path
) -> None:
    with chrootvm(assets.busybox_root(), *SLEEPING_INIT, folder=tmp_path) as session:
        time.sleep(milliseconds / 1000)
        session.process.terminate()
        status, _, errors = session.finish()
        assert (status, errors) == (-signal.SIGTERM, "")
        assert session.leftovers() == []


@pytest.mark.parametrize(
    "stop",
    [
        pytest.param(lambda session: session.process.kill(), id="killed chrootvm"),
        pytest.param(lambda session: session.process.terminate(), id="terminated chrootvm"),
        pytest.param(lambda session: os.kill(session.find_pid("qemu"), 9), id="killed QEMU"),
        pytest.param(lambda session: None, id="power-off"),
    ],
)
def test_the_terminal_modes_are_restored_at_every_end(stop: object, tmp_path: Path) -> None:
    controller, terminal = pty.openpty()
    before = termios.tcgetattr(terminal)
    script = "echo it is up; read word; poweroff -f"
    words = (assets.busybox_root(), "busybox", "sh", "-c", script)
    with chrootvm(*words, folder=tmp_path, stdin=terminal) as session:
        session.expect("it is up")
        assert termios.tcgetattr(terminal) != before
        stop(session)  # type: ignore[operator]
        os.write(controller, b"go\r")
        session.finish()
        assert session.leftovers() == []
        assert termios.tcgetattr(terminal) == before
    os.close(controller)
    os.close(terminal)
