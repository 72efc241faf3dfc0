"""Waits for descriptors: one loop for processes, streams and signals. No threads, no polling."""

import select
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

READABLE, WRITABLE = select.POLLIN, select.POLLOUT


class Loop:
    """Calls back whoever watches a descriptor when something happens to it."""

    def __init__(self) -> None:
        self._poll = select.poll()
        self._watchers: dict[int, Callable[[int], object]] = {}
        self._pulse: float | None = None  # seconds
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
        """Call `call` whenever nothing has happened for so long; None: no more.

        For what no descriptor tells.
        """
        self._pulse, self._on_pulse = seconds, call

    def run(self, until: "Callable[[], bool]", seconds: float | None = None) -> bool:
        """Work until `until()` is true, or until the time is up. Return the last `until()`."""
        deadline = None if seconds is None else time.monotonic() + seconds
        while not until():
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            pauses = [pause for pause in (left, self._pulse) if pause is not None]
            ready = self._poll.poll(min(pauses) * 1000 if pauses else None)
            if not ready and self._pulse is not None:
                self._on_pulse()
            if not ready and deadline is not None and time.monotonic() >= deadline:
                return until()
            for descriptor, events in ready:
                watcher = self._watchers.get(descriptor)
                if watcher:  # it may have been dropped by the watcher before it
                    watcher(events)
        return True
