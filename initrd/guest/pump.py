"""Moves bytes from one descriptor to another, as fast as the slower side takes them.

A pump holds one block at most and reads no more before that is written, so whoever writes at its
source has to wait for whoever reads at its sink: back-pressure goes through.
"""

import errno
import posix as os

from initrd.guest._syscalls import POLLERR, POLLHUP, POLLIN, POLLNVAL, POLLOUT

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

BLOCK = 1 << 16  # bytes: what a pipe holds
# A port's driver returns no more than one of its buffers a read; readv(2) gathers several.
PART = 4096
_GONE = POLLERR | POLLHUP | POLLNVAL


class Pump:
    """One direction of one stream. Both descriptors are non-blocking; it closes neither."""

    def __init__(self, source: int, sink: int, at_end: "Callable[[Pump], None]") -> None:
        self.source, self.sink = source, sink
        self.received = 0  # bytes read so far
        self.limit: int | None = None  # the source ends after so many bytes
        self.ended = False
        self.broken = False  # ended because nobody reads at the sink
        self._at_end = at_end
        self._block = memoryview(bytearray(BLOCK))
        self._parts = [self._block[at : at + PART] for at in range(0, BLOCK, PART)]
        self._pending = self._block[:0]

    @property
    def pending(self) -> bool:
        """Whether there is something that the sink has not taken yet."""
        return bool(self._pending)

    def wants(self) -> "list[tuple[int, int]]":
        """Return what to poll(2) for. A sink is watched always: it can break at any time."""
        if self.ended:
            return []
        if self._pending:
            return [(self.sink, POLLOUT)]
        return [(self.source, POLLIN), (self.sink, 0)]

    def act(self, ready: "dict[int, int]") -> None:
        """Move what can be moved without waiting."""
        if self.ended:  # another watcher's doing, since we said what we wait for
            return
        if ready.get(self.sink, 0) & _GONE:
            self.end(broken=True)
            return
        if not self._pending:
            self._fill()
        self._drain()
        self._check_limit()

    def end_after(self, count: int) -> None:
        """Learn that the source has `count` bytes in all."""
        self.limit = count
        self._check_limit()

    def end(self, *, broken: bool = False) -> None:
        """Move nothing any more, and tell; once."""
        if not self.ended:
            self.ended, self.broken = True, broken
            self._pending = self._block[:0]
            self._at_end(self)

    def _check_limit(self) -> None:
        if self.limit is not None and self.received >= self.limit and not self._pending:
            self.end()

    def _fill(self) -> None:
        try:
            count = os.readv(self.source, self._parts)
        except BlockingIOError:
            return
        except OSError as error:
            if error.errno != errno.EIO:  # a terminal that every process has closed
                raise
            count = 0
        if count == 0:
            self.end()
        self.received += count
        self._pending = self._block[:count]

    def _drain(self) -> None:
        try:
            while self._pending:
                self._pending = self._pending[os.write(self.sink, self._pending) :]
        except BlockingIOError:
            return
        except BrokenPipeError:
            self.end(broken=True)
