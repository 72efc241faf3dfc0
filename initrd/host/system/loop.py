"""Wait for descriptors, signals and a timer with poll(2), and call the callbacks for them.

One loop serves processes, streams and signals. There are no threads, and nothing is polled at
intervals, except through `Loop.set_timer`.
"""

import os
import select
import signal
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Self

READABLE, WRITABLE = select.POLLIN, select.POLLOUT
TERMINATING_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
_OTHER_SIGNALS = (
    signal.SIGUSR1,
    signal.SIGUSR2,
    signal.SIGWINCH,
    signal.SIGTSTP,
    signal.SIGCONT,
)
LONGEST_POLL = 1e6  # seconds; poll(2) takes milliseconds as an int


def is_ready(descriptor: int, events: int, seconds: float = 0.0) -> bool:
    """Wait up to `seconds` for one descriptor; return whether it is ready.

    Uses poll(2), because select(2) cannot wait for descriptors above 1023.
    """
    poll = select.poll()
    poll.register(descriptor, events)
    return bool(poll.poll(seconds * 1000))


def die_of_signal(number: int) -> None:
    """End this process by the signal `number`, so that a shell reports that signal."""
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)


class Loop:
    """Calls the callback of each descriptor that is ready, and of the timer."""

    def __init__(self) -> None:
        self._poll = select.poll()
        self._callbacks: dict[int, Callable[[int], object]] = {}
        self._interval: float | None = None  # of the timer, in seconds
        self._last_expiry = 0.0  # of the timer, by the monotonic clock
        self._on_timer: Callable[[], object] = lambda: None
        self._later: list[tuple[float, Callable[[], object]]] = []  # each with its time

    def watch(self, descriptor: int, events: int, callback: "Callable[[int], object]") -> None:
        """Call `callback` with the events each time that `descriptor` is ready.

        Replaces an earlier watch of the same descriptor.
        """
        self._callbacks[descriptor] = callback
        self._poll.register(descriptor, events)

    def unwatch(self, descriptor: int) -> None:
        """Stop watching a descriptor; must be called before the descriptor is closed."""
        if self._callbacks.pop(descriptor, None):
            self._poll.unregister(descriptor)

    def set_timer(self, seconds: float | None, callback: "Callable[[], object]") -> None:
        """Call `callback` every `seconds`; None stops the timer.

        For conditions that no descriptor reports.
        """
        self._interval, self._on_timer = seconds, callback

    def call_later(self, seconds: float, callback: "Callable[[], object]") -> None:
        """Call `callback` once, when `seconds` have passed and the loop runs."""
        self._later.append((time.monotonic() + seconds, callback))

    def run(self, until: "Callable[[], bool]", seconds: float | None = None) -> bool:
        """Call callbacks until `until()` is true, or for `seconds`. Return the last `until()`."""
        deadline = None if seconds is None else time.monotonic() + seconds
        while not until():
            self._poll_once(deadline)
            if deadline is not None and time.monotonic() >= deadline:
                return until()
        return True

    def _poll_once(self, deadline: float | None) -> None:
        """Wait once, until a descriptor is ready, `deadline` or the timer; call the callbacks."""
        expiry = None if self._interval is None else self._last_expiry + self._interval
        times = (due for due, _ in self._later)
        ends = [end for end in (deadline, expiry, *times) if end is not None]
        timeout = max(0.0, min(ends) - time.monotonic()) if ends else LONGEST_POLL
        for descriptor, events in self._poll.poll(min(timeout, LONGEST_POLL) * 1000):
            callback = self._callbacks.get(descriptor)
            if callback:  # an earlier callback of this round may have called `unwatch`
                callback(events)
        if expiry is not None and time.monotonic() >= expiry:
            self._last_expiry = time.monotonic()
            self._on_timer()
        self._call_due()

    def _call_due(self) -> None:
        now = time.monotonic()
        due = [callback for at, callback in self._later if at <= now]
        self._later = [entry for entry in self._later if entry[0] > now]
        for callback in due:
            callback()


class Cancelled(Exception):
    """A wait was given up: its time is over, or its result is no longer wanted."""


class Limit:
    """The time that a caller has, and whether it still wants a result."""

    def __init__(
        self, seconds: float | None = None, is_cancelled: "Callable[[], bool]" = lambda: False
    ) -> None:
        """Start a period of `seconds`; None: without end."""
        self.seconds = seconds
        self._deadline = None if seconds is None else time.monotonic() + seconds
        self._is_cancelled = is_cancelled

    def remaining(self) -> float | None:
        """Return the seconds that are left, at least 0; None: without end."""
        return None if self._deadline is None else max(0.0, self._deadline - time.monotonic())

    def wait(self, loop: Loop, until: "Callable[[], bool]", seconds: float = LONGEST_POLL) -> bool:
        """Run `loop` until `until()` is true; return False after `seconds`. Raises Cancelled."""
        remaining = self.remaining()
        is_shorter = remaining is not None and remaining < seconds
        in_time = loop.run(
            lambda: until() or self._is_cancelled(), remaining if is_shorter else seconds
        )
        if until():
            return True
        if in_time or is_shorter:
            raise Cancelled
        return False


class Signals:
    """Handles signals inside a `with`, and calls `on_signal` with the number of each.

    `received` is the first of TERMINATING_SIGNALS that arrived, or 0. SIGTSTP stops this process
    when `on_signal` has returned.
    """

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        self.received = 0
        self.on_signal: Callable[[int], object] = lambda _: None

    def __enter__(self) -> "Self":
        self._reader, self._writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._old_writer = signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)
        self._old_handlers = {
            n: signal.getsignal(n) for n in (*TERMINATING_SIGNALS, *_OTHER_SIGNALS)
        }
        for number, old in self._old_handlers.items():
            if (
                old != signal.SIG_IGN
            ):  # a signal that the caller ignores, as nohup(1) does, stays ignored
                signal.signal(number, lambda *_: None)
        self._loop.watch(self._reader, READABLE, self._on_readable)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.unwatch(self._reader)
        for number, old in self._old_handlers.items():
            signal.signal(number, old)
        signal.set_wakeup_fd(self._old_writer)
        os.close(self._reader)
        os.close(self._writer)

    def _on_readable(self, _: int) -> None:
        """Read signal numbers from the wakeup descriptor (signal.set_wakeup_fd)."""
        for number in os.read(self._reader, 64):
            if number in TERMINATING_SIGNALS and not self.received:
                self.received = number
            self.on_signal(number)
            if number == signal.SIGTSTP:
                self._stop()

    def _stop(self) -> None:
        """Stop until SIGCONT; in an orphaned process group, which cannot be stopped, go on."""
        handler = signal.signal(signal.SIGTSTP, signal.SIG_DFL)
        signal.raise_signal(signal.SIGTSTP)
        signal.signal(signal.SIGTSTP, handler)
        self.on_signal(signal.SIGCONT)
