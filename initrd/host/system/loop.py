"""Waits for descriptors: one loop for processes, streams and signals. No threads, no polling."""

import os
import select
import signal
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Self

READABLE, WRITABLE = select.POLLIN, select.POLLOUT
_LONGEST = 1e6  # seconds of one poll(2), which takes milliseconds as an int
ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
OTHERS = (signal.SIGUSR1, signal.SIGUSR2, signal.SIGWINCH, signal.SIGCONT)


def is_ready(descriptor: int, events: int, seconds: float = 0.0) -> bool:
    """Wait for one descriptor, whatever its number: select(2) ends at 1023."""
    asked = select.poll()
    asked.register(descriptor, events)
    return bool(asked.poll(seconds * 1000))


class Loop:
    """Calls back whoever watches a descriptor when something happens to it."""

    def __init__(self) -> None:
        self._poll = select.poll()
        self._watchers: dict[int, Callable[[int], object]] = {}
        self._interval: float | None = None  # seconds
        self._last_tick = 0.0  # when the last pulse was
        self._on_timer: Callable[[], object] = lambda: None

    def watch(self, descriptor: int, events: int, call: "Callable[[int], object]") -> None:
        """Call `call` with what happened, each time; replaces an earlier watch of `descriptor`."""
        self._watchers[descriptor] = call
        self._poll.register(descriptor, events)

    def ignore(self, descriptor: int) -> None:
        """Watch it no more; must be called before the descriptor is closed."""
        if self._watchers.pop(descriptor, None):
            self._poll.unregister(descriptor)

    def set_timer(self, seconds: float | None, call: "Callable[[], object]") -> None:
        """Call `call` each time that so long is over; None: no more.

        For what no descriptor tells.
        """
        self._interval, self._on_timer = seconds, call

    def run(self, until: "Callable[[], bool]", seconds: float | None = None) -> bool:
        """Work until `until()` is true, or until the time is up. Return the last `until()`."""
        deadline = None if seconds is None else time.monotonic() + seconds
        while not until():
            self._poll_once(deadline)
            if deadline is not None and time.monotonic() >= deadline:
                return until()
        return True

    def _poll_once(self, deadline: float | None) -> None:
        """Wait once, no longer than until `deadline` or the next pulse, and call who has waited."""
        beat = None if self._interval is None else self._last_tick + self._interval
        moments = [moment for moment in (deadline, beat) if moment is not None]
        pause = max(0.0, min(moments) - time.monotonic()) if moments else _LONGEST
        for descriptor, events in self._poll.poll(min(pause, _LONGEST) * 1000):
            watcher = self._watchers.get(descriptor)
            if watcher:  # it may have been dropped by the watcher before it
                watcher(events)
        if beat is not None and time.monotonic() >= beat:
            self._last_tick = time.monotonic()
            self._on_timer()


class Signals:
    """Takes signals over, as long as the `with` lasts, and hands their numbers to `call`.

    `received` is the first one that would have ended us, or 0.
    """

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        self.received = 0
        self.call: Callable[[int], object] = lambda _: None

    def __enter__(self) -> "Self":
        self._reader, self._writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._old_writer = signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)
        self._old = {number: signal.getsignal(number) for number in (*ENDING, *OTHERS)}
        for number, old in self._old.items():
            if old != signal.SIG_IGN:  # nohup and the like: whoever started us wants that
                signal.signal(number, lambda *_: None)
        self._loop.watch(self._reader, READABLE, self._take)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.ignore(self._reader)
        for number, old in self._old.items():
            signal.signal(number, old)
        signal.set_wakeup_fd(self._old_writer)
        os.close(self._reader)
        os.close(self._writer)

    def _take(self, _: int) -> None:
        for number in os.read(self._reader, 64):
            if number in ENDING and not self.received:
                self.received = number
            self.call(number)


def die_of_signal(number: int) -> None:
    """End this process as the signal would have ended it, so that a shell sees what happened."""
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)
