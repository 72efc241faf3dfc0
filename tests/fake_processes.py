"""Fake processes of a command, for tests in which nothing is executed and nothing gets a signal."""

import os
import struct

from initrd.guest._syscalls import SIGCHLD
from initrd.guest.command.processes import Processes
from initrd.guest.command.spawn import EXECUTE, SpawnError, SpawnRequest

_SIGINFO = struct.pack("=I124x", SIGCHLD)


class FakeProcesses(Processes):
    """Processes that exist in this object only. Closed at the end of the `with` statement.

    They hold their ends of the streams, as real ones do, and end with the first signal. `true` ends
    at once, and `missing` cannot be started.
    """

    def __init__(self) -> None:
        self._signals, self._announce = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._running: dict[int, tuple[int, ...]] = {}
        self._ended: list[tuple[int, int]] = []
        self._last = 1

    def __enter__(self) -> "FakeProcesses":
        return self

    def __exit__(self, *_: object) -> None:
        for pid in tuple(self._running):
            self._end(pid, 0)
        os.close(self._signals)
        os.close(self._announce)

    def receive_signals(self) -> int:
        return self._signals

    def start(self, request: SpawnRequest) -> int:
        """Start a process that has written something."""
        name = request.argv[0] if request.argv else b""
        if name == b"missing":
            raise SpawnError(EXECUTE, 2, name)
        self._last += 1
        self._running[self._last] = tuple(os.dup(fd) for fd in request.descriptors)
        os.write(self._running[self._last][1], b"output\n")
        if name == b"true":
            self._end(self._last, 0)
        return self._last

    def signal(self, pid: int, number: int) -> None:
        if abs(pid) in self._running and number:
            self._end(abs(pid), number)

    def signal_session(self, leader: int, number: int) -> bool:
        return False

    def reap(self) -> list[tuple[int, int]]:
        ended, self._ended = self._ended, []
        return ended

    def has_others(self) -> bool:
        return False

    def has_exempt(self) -> bool:
        return False

    def _end(self, pid: int, status: int) -> None:
        for fd in self._running.pop(pid):
            os.close(fd)
        self._ended.append((pid, status))
        os.write(self._announce, _SIGINFO)
