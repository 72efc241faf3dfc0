"""chrootvm --publish: servers in the guest answer at ports of the host."""

import socket
import time
from pathlib import Path

import pytest

from testbed import assets
from tests.boot.chrootvm import DEADLINE, chrootvm, run

pytestmark = pytest.mark.boot

GREETING = b"hello from the guest\n"
SERVE = "echo up; for port in 8001 8002; do echo hello from the guest | nc -l -p $port; done"


def free_port(address: str = "127.0.0.1") -> int:
    """Return a TCP port that nothing listens at."""
    with socket.create_server((address, 0)) as listener:
        return int(listener.getsockname()[1])


def receive(address: str, port: int) -> bytes:
    """Return what the guest's server sends. Until it listens, connections are closed or reset."""
    deadline = time.monotonic() + DEADLINE
    received = b""
    while not received and time.monotonic() < deadline:
        try:
            with socket.create_connection((address, port), timeout=DEADLINE) as connection:
                received = connection.recv(1 << 10)
        except ConnectionResetError:
            pass
        time.sleep(0.02)
    return received


@pytest.mark.usefixtures("start")
def test_servers_of_the_guest_answer_at_the_published_ports(tmp_path: Path) -> None:
    ports = {"127.0.0.1": free_port(), "127.0.0.2": free_port("127.0.0.2")}
    first, second = ports.values()
    options = ("--net", "--publish", f"{first}:8001", "--publish", f"127.0.0.2:{second}:8002")
    words = (*options, assets.busybox_root(), "--", "sh", "-c", SERVE)
    with chrootvm(*words, folder=tmp_path) as session:
        session.expect("up\n")
        for address, port in ports.items():
            assert receive(address, port) == GREETING
        assert session.finish() == (0, "up\n", "")
        assert session.leftovers() == []
    for address, port in ports.items():
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection((address, port))


@pytest.mark.usefixtures("start")
def test_port_in_use_is_an_error_that_is_not_remembered(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        words = ("--net", "--publish", f"{port}:80", assets.busybox_root(), "--", "true")
        status, output, errors = run(*words, folder=tmp_path)
    assert (status, output) == (125, "")
    assert errors == (
        f"chrootvm: cannot publish 127.0.0.1:{port}: Address already in use\n"
        "try: another HOSTPORT\n"
    )
    assert run(*words, folder=tmp_path) == (0, "", "")


def test_port_is_published_for_an_init_too(tmp_path: Path) -> None:
    port = free_port()
    words = ("--net", f"--publish={port}:8002", assets.busybox_root(), "busybox", "sh", "-c")
    script = "echo up; echo hello from the guest | nc -l -p 8002; poweroff -f"
    with chrootvm(*words, script, folder=tmp_path) as session:
        session.expect("up")
        assert receive("127.0.0.1", port) == GREETING
        assert session.finish()[0] == 0
