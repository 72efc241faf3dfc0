"""chrootvm --gdb: the machine waits for gdb, which controls it; what is printed and left."""

import os
import shlex
import signal
import socket
import subprocess
import time
from pathlib import Path

import pytest

from testbed import assets
from tests.boot.chrootvm import DEADLINE, Session, chrootvm, run
from tests.boot.devices.test_chrootvm_publish import free_port
from tests.boot.gdb import Gdb

pytestmark = pytest.mark.boot

MESSAGE = "chrootvm: the machine waits for gdb: "


@pytest.fixture(autouse=True)
def runtime(directory: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """The directory of the user's sockets."""
    path = f"{directory}/runtime"
    os.mkdir(path, 0o700)
    monkeypatch.setenv("XDG_RUNTIME_DIR", path)
    return path


def read_address(session: Session) -> str:
    """Return the address in the command that chrootvm has printed."""
    assert session.process.stderr
    line = session.process.stderr.readline().decode()
    assert line.startswith(MESSAGE)
    gdb, *_, execute, target = shlex.split(line.removeprefix(MESSAGE))
    assert (gdb, execute) == ("gdb", "-ex")
    assert target.startswith("target remote ")
    return target.removeprefix("target remote ")


@pytest.mark.parametrize("with_port", [False, True], ids=["socket", "port"])
@pytest.mark.parametrize("init", [False, True], ids=["COMMAND", "INIT"])
def test_machine_waits_until_gdb_continues_it(
    runtime: str, tmp_path: Path, *, with_port: bool, init: bool
) -> None:
    port = free_port()
    option = f"--gdb={port}" if with_port else "--gdb"
    shell = ("sh", "-c", "cat /proc/cmdline")
    program = ("busybox", *shell[:2], f"{shell[2]}; poweroff -f") if init else ("--", *shell)
    with chrootvm(option, assets.busybox_root(), *program, folder=tmp_path) as session:
        address = read_address(session)
        if with_port:
            assert address == f"127.0.0.1:{port}"
        else:
            folder = os.path.dirname(address)
            assert os.path.dirname(folder) == runtime
            assert os.stat(folder).st_mode & 0o7777 == 0o700
        with Gdb(address) as gdb:
            assert gdb.ask("?").startswith("T05")
            assert session.process.poll() is None
            gdb.send("c")
            status, output, errors = session.finish()
        assert (status, errors) == (0, "")
        assert " nokaslr " in output
        assert session.leftovers() == []
    assert os.listdir(runtime) == []


def test_machine_stops_at_the_address_of_a_function_of_the_kernel(tmp_path: Path) -> None:
    root = assets.busybox_root()
    symbols = run(root, "--", "grep", "-w", "start_kernel", "/proc/kallsyms", folder=tmp_path)[1]
    address = symbols.split()[0]
    assert int(address, 16)
    words = ("--gdb", root, "--", "echo", "done")
    with chrootvm(*words, folder=tmp_path) as session, Gdb(read_address(session)) as gdb:
        assert gdb.ask(f"Z1,{address},1") == "OK"
        assert gdb.ask("c").startswith("T05")
        assert gdb.ask(f"z1,{address},1") == "OK"
        gdb.send("c")
        assert session.finish() == (0, "done\n", "")


def test_machine_for_gdb_boots_with_warm(tmp_path: Path) -> None:
    words = ("--gdb", "--warm", assets.busybox_root(), "--", "cat", "/proc/cmdline")
    with chrootvm(*words, folder=tmp_path) as session, Gdb(read_address(session)) as gdb:
        gdb.send("c")
        status, output, errors = session.finish()
    assert (status, errors) == (0, "")
    assert "pcie_ports=compat" not in output


def test_port_in_use_is_an_error(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        words = (f"--gdb={port}", assets.busybox_root(), "--", "true")
        status, output, errors = run(*words, folder=tmp_path)
    assert (status, output) == (125, "")
    assert errors == (
        f"chrootvm: cannot wait for gdb at 127.0.0.1:{port}: Address already in use\n"
        "try: another PORT, or --gdb without one\n"
    )


def test_time_limit_includes_the_time_before_gdb_continues(runtime: str, tmp_path: Path) -> None:
    words = ("--gdb", "--timeout", "3", assets.busybox_root(), "--", "true")
    began = time.monotonic()
    status, output, errors = run(*words, folder=tmp_path)
    assert (status, output) == (124, "")
    why = "the machine was waiting for gdb, or booting"
    assert errors.endswith(f"chrootvm: the command had not started after 3 s: {why}\n")
    assert time.monotonic() - began >= 3
    assert os.listdir(runtime) == []


def test_signal_ends_a_machine_that_waits_for_gdb(runtime: str, tmp_path: Path) -> None:
    for program in (("--", "true"), ("busybox", "sh")):
        words = ("--gdb", assets.busybox_root(), *program)
        with chrootvm(*words, folder=tmp_path, stdin=subprocess.PIPE) as session:
            read_address(session)
            session.process.send_signal(signal.SIGTERM)
            assert session.process.wait(DEADLINE) == -signal.SIGTERM
            assert session.leftovers() == []
        assert os.listdir(runtime) == []


@pytest.mark.parametrize("init", [False, True], ids=["COMMAND", "INIT"])
def test_machine_that_gdb_kills_has_not_panicked(tmp_path: Path, *, init: bool) -> None:
    shell = ("sh", "-c", "echo up; sleep 1000")
    program = ("busybox", *shell) if init else ("--", *shell)
    words = ("--gdb", assets.busybox_root(), *program)
    with chrootvm(*words, folder=tmp_path) as session, Gdb(read_address(session)) as gdb:
        gdb.ask("?")
        gdb.send("c")
        assert session.process.stdout
        assert session.process.stdout.readline().strip() == b"up"
        gdb.interrupt()
        gdb.send("k")
        errors = session.process.communicate(timeout=DEADLINE)[1].decode()
    assert session.process.returncode == 125
    assert "panic" not in errors
    assert "has ended QEMU" in errors if init else "was switched off" in errors
