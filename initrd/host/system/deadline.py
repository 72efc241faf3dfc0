"""End this process after a time, also when it no longer responds: for chrootvm --timeout.

There are two means. A timer raises `TimeUp` in the main thread, whether that works or waits in a
system call, so that the `with` statements of the program undo what they did. A child process kills
this one when it is still there some seconds later: a system call may wait without regard to
signals, for instance for a network file system that does not answer.
"""

import os
import signal
import time
from contextlib import contextmanager, suppress

from initrd.host.system.loop import LONGEST_POLL, READABLE, WRITABLE, Limit, is_ready
from initrd.host.system.process import fork_watchdog
from initrd.host.system.terminal import STDERR

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import NoReturn

GRACE_PERIOD = 5.0  # seconds after the deadline for a main loop to end, and then for TimeUp
_KILLED = b"chrootvm: this process did not end at its --timeout, and was killed\n"


class TimeUp(BaseException):
    """The deadline is over. It is no Exception, so that no handler for those stops it."""


class Deadline:
    """The time at which a program is to end, by the monotonic clock."""

    def __init__(self, seconds: float | None, grace_period: float = GRACE_PERIOD) -> None:
        """Begin a period of `seconds`; None: without end."""
        self.activity = ""  # what the program does, as a clause; for `explain`
        self._grace_period = grace_period
        self._limit = Limit(seconds)

    def remaining(self) -> float | None:
        """Return the seconds that are left, at least 0; None: without end."""
        return self._limit.remaining()

    def explain(self, what: str) -> str:
        """Return the message that `what` is the case at the deadline, and what took the time."""
        after = f"{what} after {self._limit.seconds:g} s"
        return f"{after}: {self.activity}" if self.activity else after

    @contextmanager
    def enforced(self) -> "Iterator[None]":
        """Raise TimeUp in the `with` at the deadline; kill this process when that does not end it.

        For the main thread. A second TimeUp is not raised.
        """
        remaining = self.remaining()
        if remaining is None:
            yield
            return
        old_handler = signal.signal(signal.SIGALRM, _raise_time_up)
        watchdog = _start_watchdog(remaining + 2 * self._grace_period)
        try:
            try:
                _set_timer(remaining)
                yield
            finally:
                _stop(watchdog, old_handler)
        finally:  # TimeUp, which is raised once, may have interrupted the first call
            _stop(watchdog, old_handler)

    def leave_to_loop(self) -> None:
        """Raise TimeUp later: from now on a loop ends at the deadline by itself."""
        remaining = self.remaining()
        if remaining is not None:
            _set_timer(remaining + self._grace_period)


def _set_timer(seconds: float) -> None:
    signal.setitimer(signal.ITIMER_REAL, max(seconds, 1e-6))  # 0 would stop it


def _stop(watchdog: int, old_handler: "signal._HANDLER") -> None:
    """Stop the timer and the watchdog. May be called twice."""
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, old_handler)
    with suppress(ProcessLookupError, ChildProcessError):
        os.kill(watchdog, signal.SIGKILL)
        os.waitpid(watchdog, 0)


def _raise_time_up(*_: object) -> "NoReturn":
    raise TimeUp


def _start_watchdog(seconds: float) -> int:
    """Return the process ID of a process that kills this one after `seconds`."""
    pid = os.getpid()
    program = os.pidfd_open(pid)

    def wait() -> None:
        end = time.monotonic() + seconds
        while (remaining := end - time.monotonic()) > 0:
            if is_ready(program, READABLE, min(remaining, LONGEST_POLL)):  # it has ended
                return
        signal.pidfd_send_signal(program, signal.SIGKILL)
        if is_ready(STDERR, WRITABLE):
            os.write(STDERR, _KILLED)

    try:
        return fork_watchdog(wait, program)
    finally:
        os.close(program)
