"""Waits until files are ready, and lets act who wanted to know: poll(2)."""

import posix as os
import sys
import time

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
    poll,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Protocol

    class Watcher(Protocol):
        """Somebody who waits for files."""

        def wants(self) -> list[tuple[int, int]]:
            """Return descriptors and the events (`POLLIN` …) to wait for; none for now: []."""

        def act(self, ready: dict[int, int]) -> None:
            """React to the events of any descriptors, own ones among them. Must not wait."""


_SIZE = 128  # bytes of a struct signalfd_siginfo; the first four are the number
# Of PID 1's own doing, not meant for the command.
OWN_SIGNALS = frozenset((SIGCHLD, SIGPIPE, SIGSEGV, SIGBUS, SIGFPE, SIGILL))
# What a terminal sends goes to the whole foreground job.
JOB_SIGNALS = frozenset((SIGHUP, SIGINT, SIGQUIT))


class Loop:
    """The one place where PID 1 waits."""

    def __init__(self) -> None:
        self.watchers: list[Watcher] = []

    def run(self, until: "Callable[[], bool]", seconds: "float | None" = None) -> bool:
        """Serve the watchers until `until` is true (return True) or `seconds` are over (False)."""
        deadline = None if seconds is None else time.monotonic() + seconds
        while not until():
            milliseconds = -1
            if deadline is not None:
                milliseconds = int((deadline - time.monotonic()) * 1000) + 1
                if milliseconds <= 0:
                    return False
            self._poll_once(milliseconds)
        return True

    def _poll_once(self, milliseconds: int) -> None:
        """Wait once. Each descriptor is in one entry of poll(2), whoever waits for it.

        With two entries for one port, its driver (virtio_console) may find new data for the second,
        which has not asked for it; the interrupt then finds nothing new, and nobody is woken.
        """
        wanted = [(watcher, watcher.wants()) for watcher in self.watchers]
        files: dict[int, int] = {}
        for _, wants in wanted:
            for fd, events in wants:
                files[fd] = files.get(fd, 0) | events
        ready = dict(poll(list(files.items()), milliseconds))
        for watcher, wants in wanted:
            if any(fd in ready for fd, _ in wants):
                watcher.act(ready)


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
