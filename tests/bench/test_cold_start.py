"""The two protocols by which the benchmark of the kernel's start talks to QEMU."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from bench.cold_start import execute, packet, run_to

EVENT = b'{"timestamp": {}, "event": "STOP"}\r\n'


@contextmanager
def connection(received: bytes) -> Iterator[socket.socket]:
    """Yield a connection on which these bytes arrive, and then its end."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.sendall(received)
        theirs.shutdown(socket.SHUT_WR)
        yield ours


def test_packet_ends_with_the_sum_of_its_bytes() -> None:
    assert packet("c") == b"$c#63"
    assert packet("Z0,100000,1") == b"$Z0,100000,1#34"


@pytest.mark.parametrize(
    ("received", "why"),
    [
        pytest.param(b"", "QEMU has ended", id="end of QEMU"),
        pytest.param(b"+$E22#a9", "'E22' to Z0,10,1", id="refusal of a breakpoint"),
    ],
)
def test_breakpoint_that_is_not_set_is_an_error(received: bytes, why: str) -> None:
    with connection(received) as gdb, pytest.raises(ValueError, match=why):
        run_to(gdb, 16)


def test_greeting_and_events_of_the_monitor_are_skipped() -> None:
    response = b'{"return": {"icount": 7}}\r\n'
    with connection(b'{"QMP": {}}\r\n' + EVENT + response) as qmp:
        assert execute(qmp, "query-replay") == {"icount": 7}


def test_command_that_fails_is_an_error() -> None:
    with (
        connection(EVENT + b'{"error": {"desc": "no"}}\r\n') as qmp,
        pytest.raises(ValueError, match=r"query-replay: .*no"),
    ):
        execute(qmp, "query-replay")
