"""The guard of the host's loopback: which addresses are allowed, and what a program then gets."""

import errno
import os
import socket
import struct
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from initrd.host.qemu import loopback
from initrd.host.qemu.loopback import LoopbackGuard, is_allowed, parse_address, read_name_servers
from initrd.host.system.hosterror import HostError
from initrd.host.system.loop import READABLE, Loop
from initrd.host.system.process import Process, Program

SERVERS = """\
# nameserver 127.0.0.9
search example.org
nameserver 127.0.0.53
nameserver ::1%lo
nameserver no-address
nameserver
nameserver 127.0.0.54 # with a comment
"""


@pytest.fixture
def resolv_conf(tmp_path: Path) -> str:
    path = tmp_path / "resolv.conf"
    path.write_text(SERVERS)
    return str(path)


def ipv4(host: str, port: int) -> bytes:
    family = struct.pack("=H", socket.AF_INET)
    return family + port.to_bytes(2, "big") + socket.inet_pton(socket.AF_INET, host) + bytes(8)


def ipv6(host: str, port: int) -> bytes:
    family = struct.pack("=H", socket.AF_INET6)
    address = socket.inet_pton(socket.AF_INET6, host)
    return family + port.to_bytes(2, "big") + bytes(4) + address + bytes(4)


@pytest.mark.parametrize(
    ("address", "allowed"),
    [
        pytest.param(ipv4("127.0.0.1", 80), False, id="the loopback"),
        pytest.param(ipv4("127.255.0.9", 80), False, id="another address of it"),
        pytest.param(ipv4("0.0.0.0", 80), False, id="zero"),
        pytest.param(ipv6("::1", 80), False, id="IPv6"),
        pytest.param(ipv6("::", 80), False, id="zero of IPv6"),
        pytest.param(ipv6("::ffff:127.0.0.1", 80), False, id="IPv4 in IPv6"),
        pytest.param(ipv6("::ffff:0.0.0.0", 80), False, id="zero in IPv6"),
        pytest.param(ipv4("192.0.2.1", 80), True, id="another host"),
        pytest.param(ipv4("1.0.0.0", 80), True, id="a host with zeros"),
        pytest.param(ipv4("0.0.0.1", 80), True, id="network zero"),
        pytest.param(ipv6("2001:db8::1", 80), True, id="another host by IPv6"),
        pytest.param(ipv6("7f00::1", 80), True, id="IPv6 that begins with 127"),
        pytest.param(ipv6("::2", 80), True, id="IPv6 next to the loopback"),
        pytest.param(ipv4("127.0.0.53", 53), True, id="a name server"),
        pytest.param(ipv4("127.0.0.54", 53), True, id="the last name server"),
        pytest.param(ipv6("::1", 53), True, id="a name server by IPv6"),
        pytest.param(ipv4("127.0.0.53", 80), False, id="another port of a name server"),
        pytest.param(ipv4("127.0.0.9", 53), False, id="a name server in a comment"),
        pytest.param(b"\1\0/run/socket", True, id="a unix socket"),
        pytest.param(ipv4("127.0.0.1", 80)[:7], True, id="too short, the kernel refuses it"),
        pytest.param(ipv6("::1", 80)[:20], True, id="IPv6, too short"),
        pytest.param(b"\2", True, id="half a family"),
        pytest.param(b"", True, id="none"),
    ],
)
def test_only_name_servers_of_the_loopback_are_allowed(
    address: bytes, allowed: bool, resolv_conf: str
) -> None:
    assert is_allowed(address, resolv_conf) is allowed


def test_name_servers_that_are_no_addresses_are_none(resolv_conf: str, tmp_path: Path) -> None:
    loopback_v6 = bytes(15) + b"\1"
    assert read_name_servers(resolv_conf) == [
        b"\x7f\0\0\x35",
        loopback_v6,
        b"",
        b"\x7f\0\0\x36",
    ]
    assert read_name_servers(str(tmp_path / "gone")) == []


def test_an_address_has_a_port() -> None:
    assert parse_address(ipv4("192.0.2.1", 8080)) == (b"\xc0\0\2\1", 8080)
    assert parse_address(ipv6("::ffff:192.0.2.1", 8080)) == (b"\xc0\0\2\1", 8080)


SCRIPT = """
import os, socket, sys

def attempt(call):
    try:
        call()
    except OSError as error:
        return error.errno
    return 0

tcp4, tcp6, unix = (int(word) for word in sys.argv[1:4])
results = []
for family, host, port in (
    (socket.AF_INET, "127.0.0.1", tcp4), (socket.AF_INET6, "::ffff:127.0.0.1", tcp4),
    (socket.AF_INET6, "::1", tcp6),
):
    for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
        with socket.socket(family, kind) as one:
            results.append(attempt(lambda: one.connect((host, port))))
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
    results.append(attempt(lambda: one.sendto(b"data", ("127.0.0.1", tcp4))))
    results.append(attempt(lambda: one.sendto(b"data", ("192.0.2.1", 9))) in (0, 101, 113))
with socket.socket(socket.AF_UNIX) as one:
    results.append(attempt(lambda: one.connect("gone")))
with socket.socket(fileno=unix) as one:
    one.send(repr(results).encode())
"""


@pytest.fixture
def ports() -> Iterator[tuple[int, int]]:
    """Ports of servers on the loopback."""
    six = socket.create_server(("::1", 0), family=socket.AF_INET6)
    with six, socket.create_server(("127.0.0.1", 0)) as four:
        yield four.getsockname()[1], six.getsockname()[1]


def test_a_program_cannot_connect_or_send_to_the_loopback(ports: tuple[int, int]) -> None:
    loop, received = Loop(), bytearray()
    here, there = socket.socketpair()
    words = (sys.executable, "-I", "-c", SCRIPT, *map(str, (*ports, there.fileno())))
    with here, there, LoopbackGuard() as guard:
        program = Program(words, (there.fileno(),), before=guard.install)
        with Process(program, 2) as process:
            guard.watch(loop, process.pid)
            loop.watch(here.fileno(), READABLE, lambda _: received.extend(here.recv(1000)))
            assert loop.run(lambda: bool(received), 20)
            loop.run(lambda: process.status() is not None, 5)
            loop.run(lambda: False, 0.1)  # the end of the program is handled
    refused = errno.ECONNREFUSED
    assert received.decode() == repr([*[refused] * 6, refused, True, errno.ENOENT])


def test_a_refused_filter_is_an_error_with_the_option_that_needs_none(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(loopback, "make_filter", lambda _: bytes(8))  # it does not return
    with LoopbackGuard() as guard, pytest.raises(HostError, match=r"seccomp: .*\ntry: --net=host"):
        Process(Program(("/bin/true",), before=guard.install), 2)


def test_a_program_whose_memory_is_not_for_this_user_is_an_error() -> None:
    why = "the memory of QEMU cannot be read: No such file"
    with LoopbackGuard() as guard:
        program = Program(("/bin/sleep", "9"), before=guard.install)
        with Process(program, 2), pytest.raises(HostError, match=why):
            guard.watch(Loop(), 0)


def test_a_program_that_has_ended_is_no_error() -> None:
    loop = Loop()
    with LoopbackGuard() as guard:
        program = Program(("/bin/true",), before=guard.install)
        with Process(program, 2) as process:
            assert process.wait(10) == 0
            guard.watch(loop, process.pid)
            loop.run(lambda: False, 0.1)


def test_a_kernel_that_refuses_an_answer_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    loop = Loop()
    monkeypatch.setattr(loopback, "_CONTINUE", 1 << 31)  # as before Linux 5.5
    script = "import socket; socket.socket(socket.AF_UNIX).connect('gone')"
    words = (sys.executable, "-I", "-c", script)
    with LoopbackGuard() as guard:
        program = Program(words, before=guard.install)
        with Process(program, 2) as process:
            guard.watch(loop, process.pid)
            with pytest.raises(HostError, match=r"has to be Linux 5\.5: Invalid argument"):
                loop.run(lambda: False, 10)


def test_an_unknown_architecture_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    names = os.uname()
    unknown = os.uname_result((*names[:4], "vax"))
    monkeypatch.setattr(os, "uname", lambda: unknown)
    with pytest.raises(HostError, match="this is not known for vax\ntry: --net=host"):
        LoopbackGuard()
