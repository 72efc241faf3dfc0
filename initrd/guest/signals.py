"""Receives PID 1's signals as data: they are blocked, and read from a signalfd(2)."""

import posix as os
import sys

from initrd.guest._syscalls import (
    POLLIN,
    SIGBUS,
    SIGCHLD,
    SIGFPE,
    SIGHUP,
    SIGILL,
    SIGINT,
    SIGPIPE,
    SIGQUIT,
    SIGSEGV,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

_SIZE = 128  # bytes of a struct signalfd_siginfo; the first four are the number
# Of PID 1's own doing, not meant for the command.
OWN = frozenset((SIGCHLD, SIGPIPE, SIGSEGV, SIGBUS, SIGFPE, SIGILL))
# What a terminal sends goes to the whole foreground job.
FOR_THE_JOB = frozenset((SIGHUP, SIGINT, SIGQUIT))


class Signals:
    """The signals that arrive, one call of `on_signal` each."""

    def __init__(self, fd: int, on_signal: "Callable[[int], None]") -> None:
        self._fd = fd
        self._on_signal = on_signal

    def wants(self) -> "list[tuple[int, int]]":
        """Return what to poll(2) for."""
        return [(self._fd, POLLIN)]

    def act(self, ready: "dict[int, int]") -> None:
        """Take the signals that are there."""
        if not ready.get(self._fd, 0) & POLLIN:
            return
        try:
            data = os.read(self._fd, 16 * _SIZE)
        except BlockingIOError:  # another reader was faster; there is none, but it does no harm
            return
        for at in range(0, len(data), _SIZE):
            self._on_signal(int.from_bytes(data[at : at + 4], sys.byteorder))
