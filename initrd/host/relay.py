"""Moves the bytes of a stream from one descriptor to another: in order, none lost, none kept.

What the reader does not take stops the writer: no more than one piece is held here.
"""

import os

from initrd.host.loop import READABLE, WRITABLE, Loop, is_ready
from initrd.host.stream import Sink

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

_PIECE = 1 << 16  # bytes read at once


def _nothing(*_: object) -> None:
    pass


class Relay:
    """One direction of one stream. `see` is shown every piece; the other calls come once."""

    def __init__(
        self,
        loop: Loop,
        source: int,
        sink: Sink | None,
        see: "Callable[[bytes], object]" = _nothing,
    ) -> None:
        self._loop, self._source, self._sink, self._see = loop, source, sink, see
        self._held = memoryview(b"")
        self.count = 0  # bytes read from the source
        self.ended = False  # the source has no more, and all of it is written
        self.on_end: Callable[[], object] = _nothing
        self.on_broken: Callable[[OSError], object] = _nothing  # the sink takes no more
        loop.watch(source, READABLE, self._read)

    @property
    def idle(self) -> bool:
        """Whether everything that was read is written."""
        return not self._held

    def stop(self) -> None:
        """Neither read nor write any more; what is held is lost."""
        self._loop.ignore(self._source)
        if self._sink:
            self._loop.ignore(self._sink.descriptor)
        self._sink, self.ended = None, True

    def read_now(self) -> None:
        """Read what is there already."""
        while not self.ended and self.idle and is_ready(self._source, READABLE):
            self._read(0)

    def _read(self, _: int) -> None:
        try:
            data = os.read(self._source, _PIECE)
        except BlockingIOError:  # somebody else who has the same stream was faster
            return
        except OSError:  # ECONNRESET: QEMU is gone; EIO: the terminal is
            data = b""
        if not data:
            self.stop()
            self.on_end()
            return
        self.count += len(data)
        self._see(data)
        self._held = memoryview(data)
        self._write()
        if self._sink and self._held:  # it is full: nothing more is read until it takes this
            self._loop.ignore(self._source)
            self._loop.watch(self._sink.descriptor, WRITABLE, self._write_rest)

    def _write(self) -> None:
        try:
            written = self._sink.write(self._held) if self._sink else len(self._held)
            self._held = self._held[written:]
        except OSError as error:  # EPIPE: the reader has gone; ENOSPC: it is no use to go on
            # What is read from here on is dropped: whoever writes to us must not be stopped.
            sink, self._sink, self._held = self._sink, None, memoryview(b"")
            if sink:
                self._loop.ignore(sink.descriptor)
            self.on_broken(error)

    def _write_rest(self, _: int) -> None:
        sink = self._sink
        self._write()
        if not self._held and not self.ended:
            if sink:
                self._loop.ignore(sink.descriptor)
            self._loop.watch(self._source, READABLE, self._read)
