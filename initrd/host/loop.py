"""Waits for descriptors: one loop for processes, streams and signals. No threads, no polling."""

import select
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

READABLE, WRITABLE = select.POLLIN, select.POLLOUT
_LONGEST = 1e6  # seconds of one poll(2), which takes milliseconds as an int


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
        self._pulse: float | None = None  # seconds
        self._beaten = 0.0  # when the last pulse was
        self._on_pulse: Callable[[], object] = lambda: None

    def watch(self, descriptor: int, events: int, call: "Callable[[int], object]") -> None:
        """Call `call` with what happened, each time; replaces an earlier watch of `descriptor`."""
        self._watchers[descriptor] = call
        self._poll.register(descriptor, events)

    def ignore(self, descriptor: int) -> None:
        """Watch it no more; must be called before the descriptor is closed."""
        if self._watchers.pop(descriptor, None):
            self._poll.unregister(descriptor)

    def pulse(self, seconds: float | None, call: "Callable[[], object]") -> None:
        """Call `call` each time that so long is over; None: no more.

        For what no descriptor tells.
        """
        self._pulse, self._on_pulse = seconds, call

    def run(self, until: "Callable[[], bool]", seconds: float | None = None) -> bool:
        """Work until `until()` is true, or until the time is up. Return the last `until()`."""
        deadline = None if seconds is None else time.monotonic() + seconds
        while not until():
            self._turn(deadline)
            if deadline is not None and time.monotonic() >= deadline:
                return until()
        return True

    def _turn(self, deadline: float | None) -> None:
        """Wait once, no longer than until `deadline` or the next pulse, and call who has waited."""
        beat = None if self._pulse is None else self._beaten + self._pulse
        moments = [moment for moment in (deadline, beat) if moment is not None]
        pause = max(0.0, min(moments) - time.monotonic()) if moments else _LONGEST
        for descriptor, events in self._poll.poll(min(pause, _LONGEST) * 1000):
            watcher = self._watchers.get(descriptor)
            if watcher:  # it may have been dropped by the watcher before it
                watcher(events)
        if beat is not None and time.monotonic() >= beat:
            self._beaten = time.monotonic()
            self._on_pulse()
