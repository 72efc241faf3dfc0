"""Event loop of PID 1: poll(2) on the descriptors of several handlers; signals by signalfd(2)."""

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

    class Handler(Protocol):
        """Waits for events of descriptors and handles them."""

        def poll_entries(self) -> list[tuple[int, int]]:
            """Return (descriptor, events such as `POLLIN`) to wait for; may be empty."""

        def handle_events(self, ready: dict[int, int]) -> None:
            """Handle the events of the ready descriptors, which include other handlers'.

            Must not block.
            """


_SIGINFO_SIZE = 128  # bytes of a struct signalfd_siginfo; the first four are the signal's number
# Signals that PID 1 itself causes, or its children by ending: not forwarded to the command.
UNFORWARDED_SIGNALS = frozenset((SIGCHLD, SIGPIPE, SIGSEGV, SIGBUS, SIGFPE, SIGILL))
# Signals that a terminal sends to a process group: forwarded to the command's process group.
JOB_SIGNALS = frozenset((SIGHUP, SIGINT, SIGQUIT))


class Loop:
    """The only place where PID 1 waits while a command runs."""

    def __init__(self) -> None:
        self.handlers: list[Handler] = []

    def run(self, until: "Callable[[], bool]", timeout: "float | None" = None) -> bool:
        """Handle events until `until()` is true (return True) or `timeout` seconds pass (False)."""
        deadline = None if timeout is None else time.monotonic() + timeout
        while not until():
            milliseconds = -1
            if deadline is not None:
                milliseconds = int((deadline - time.monotonic()) * 1000) + 1
                if milliseconds <= 0:
                    return False
            self._poll_once(milliseconds)
        return True

    def _poll_once(self, milliseconds: int) -> None:
        """Wait once. Each descriptor is in one entry of poll(2), even if several handlers use it.

        With two entries for one port, the port's driver (virtio_console) may detect new data while
        it checks the second entry, which does not ask for POLLIN. The interrupt for this data then
        detects nothing new and does not wake the waiting process.
        """
        entries = [(handler, handler.poll_entries()) for handler in self.handlers]
        events_by_fd: dict[int, int] = {}
        for _, handler_entries in entries:
            for fd, events in handler_entries:
                events_by_fd[fd] = events_by_fd.get(fd, 0) | events
        ready = dict(poll(list(events_by_fd.items()), milliseconds))
        for handler, handler_entries in entries:
            if any(fd in ready for fd, _ in handler_entries):
                handler.handle_events(ready)


class SignalReader:
    """Reads signals from a signalfd(2) descriptor and calls `on_signal` with each number."""

    def __init__(self, fd: int, on_signal: "Callable[[int], None]") -> None:
        self._fd = fd
        self._on_signal = on_signal

    def poll_entries(self) -> "list[tuple[int, int]]":
        """Return the descriptor and its events for poll(2)."""
        return [(self._fd, POLLIN)]

    def handle_events(self, ready: "dict[int, int]") -> None:
        """Read the pending signals."""
        if not ready.get(self._fd, 0) & POLLIN:
            return
        try:
            data = os.read(self._fd, 16 * _SIGINFO_SIZE)
        except BlockingIOError:  # only if another reader existed; harmless
            return
        for at in range(0, len(data), _SIGINFO_SIZE):
            self._on_signal(int.from_bytes(data[at : at + 4], sys.byteorder))
