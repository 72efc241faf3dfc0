"""How much of what was sent on a unix socket its other end has not read."""

import socket

from initrd.host.system.stream import count_unread


def test_unread_bytes_are_counted_until_the_other_end_has_read_them() -> None:
    one, other = socket.socketpair()
    with one, other:
        assert count_unread(one) == 0
        one.sendall(b"abc")
        assert count_unread(one) >= 3
        other.recv(100)
        assert count_unread(one) == 0
