"""Waits for descriptors: one loop for processes, streams and signals. No threads, no polling."""

import select
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

READABLE, WRITABLE = select.POLLIN, select.POLLOUT
BROKEN = select.POLLERR  # always watched for: the other end of what we write to is closed


class Loop:
    """Calls back whoever watches a descriptor when something happens to it."""

    def __init__(self) -> None:
        self._poll = select.poll()
        self._watchers: dict[int, Callable[[int], object]] = {}

    def watch(self, descriptor: int, events: int, call: "Callable[[int], object]") -> None:
        """Call `call` with what happened, each time; replaces an earlier watch of `descriptor`."""
        self._watchers[descriptor] = call
        self._poll.register(descriptor, events)

    def ignore(self, descriptor: int) -> None:
        """Watch it no more; must be called before the descriptor is closed."""
        if self._watchers.pop(descriptor, None):
            self._poll.unregister(descriptor)

    def run(self, until: "Callable[[], bool]", seconds: float | None = None) -> bool:
        """Work until `until()` is true, or until the time is up. Return the last `until()`."""
        deadline = None if seconds is None else time.monotonic() + seconds
        while not until():
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            ready = self._poll.poll(None if left is None else left * 1000)
            if not ready and deadline is not None and time.monotonic() >= deadline:
                return until()
            for descriptor, events in ready:
                watcher = self._watchers.get(descriptor)
                if watcher:  # it may have been dropped by the watcher before it
                    watcher(events)
        return True
