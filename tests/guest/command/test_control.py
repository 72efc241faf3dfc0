"""Messages with the host: a port that is hung up, lines in pieces, and what cannot be sent yet."""

import os
import socket
from collections.abc import Iterator

import pytest

from initrd.guest._syscalls import POLLERR, POLLHUP, POLLIN, POLLNVAL, POLLOUT
from initrd.guest.command.control import ControlPort


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    host, guest = socket.socketpair()
    guest.setblocking(False)
    with host, guest:
        yield host, guest


@pytest.mark.parametrize("event", [POLLERR, POLLHUP, POLLNVAL])
def test_port_that_is_hung_up_is_disconnected(event: int) -> None:
    control = ControlPort(7)
    control.handle_events({7: event})
    assert control.disconnected
    assert control.is_finished()
    assert control.poll_entries() == []


@pytest.mark.parametrize("ready", [{}, {7: POLLOUT}, {8: POLLHUP}])
def test_other_events_disconnect_nothing(ready: dict[int, int]) -> None:
    control = ControlPort(7)
    control.handle_events(ready)
    assert not control.disconnected
    assert control.poll_entries() == [(7, POLLIN)]


def test_end_of_the_hosts_bytes_disconnects(ends: tuple[socket.socket, socket.socket]) -> None:
    host, guest = ends
    control = ControlPort(guest.fileno())
    control.handle_events({guest.fileno(): POLLIN})  # nothing to read
    assert not control.disconnected
    host.shutdown(socket.SHUT_WR)
    control.handle_events({guest.fileno(): POLLIN})
    assert control.disconnected


def test_message_in_pieces_is_handled_once(ends: tuple[socket.socket, socket.socket]) -> None:
    host, guest = ends
    control = ControlPort(guest.fileno())
    found: list[list[str]] = []
    control.on_message = found.append
    for piece in (b"resi", b"ze 1 2\nsignal", b" 3\n"):
        host.sendall(piece)
        control.handle_events({guest.fileno(): POLLIN})
    assert found == [["resize", "1", "2"], ["signal", "3"]]


def test_early_messages_are_handled_once(ends: tuple[socket.socket, socket.socket]) -> None:
    host, guest = ends
    control = ControlPort(guest.fileno())
    times: list[int] = []
    control.on_time = times.append
    host.sendall(b"eof stdin 3\ntime 5\ntime x\nbye\n")
    control.handle_events({guest.fileno(): POLLIN})
    found: list[list[str]] = []
    control.on_message = found.append
    control.handle_early()
    control.handle_early()
    assert (found, times, control.bye_received) == ([["eof", "stdin", "3"]], [5], True)


def test_messages_wait_until_the_port_accepts_them(
    ends: tuple[socket.socket, socket.socket],
) -> None:
    host, guest = ends
    control = ControlPort(guest.fileno())
    while True:  # fill the port
        try:
            os.write(guest.fileno(), b"x" * 4096)
        except BlockingIOError:
            break
    control.send("warning", "a\nb")
    assert not control.is_sent
    assert control.poll_entries() == [(guest.fileno(), POLLIN | POLLOUT)]
    host.setblocking(False)
    while drain(host):
        pass
    control.handle_events({guest.fileno(): POLLOUT})
    assert control.is_sent
    assert host.recv(100) == b"warning a\\nb\n"


def drain(end: socket.socket) -> bytes:
    try:
        return end.recv(1 << 20)
    except BlockingIOError:
        return b""
