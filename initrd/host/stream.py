"""Descriptors of ours as streams: how to use them without ever being stuck.

Standard output and its like are shared with other programs, so O_NONBLOCK must not be set on them:
that would change them for everybody. They are opened a second time where that is possible.
"""

import os
import socket
import stat
from contextlib import contextmanager

from initrd.host.loop import WRITABLE, is_ready

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

_SAFE = 4096  # bytes that a pipe takes without blocking when it is writable (PIPE_BUF, pipe(7))


class Sink:
    """Something to write to. `write` takes what it can and never waits."""

    def __init__(self, descriptor: int) -> None:
        mode = os.fstat(descriptor).st_mode
        opened = _open_again(descriptor, os.O_WRONLY)
        self.descriptor = os.dup(descriptor) if opened < 0 else opened
        self._careful = opened < 0 and not stat.S_ISREG(mode)
        is_socket = stat.S_ISSOCK(mode)
        self._socket = socket.socket(fileno=self.descriptor) if is_socket else None

    def write(self, data: "bytes | memoryview") -> int:
        """Write some of `data`; return how much. Raises OSError, BrokenPipeError among them."""
        try:
            if self._socket:
                return self._socket.send(data, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
            if self._careful and not is_ready(self.descriptor, WRITABLE):
                return 0
            return os.write(self.descriptor, data[:_SAFE] if self._careful else data)
        except BlockingIOError:
            return 0

    def close(self) -> None:
        """Close our own descriptor; the one that was given stays open."""
        if self._socket:
            self._socket.close()
        else:
            os.close(self.descriptor)


@contextmanager
def source(descriptor: int) -> "Iterator[int]":
    """Give a descriptor from which reading does not wait, where another program reads the same."""
    opened = _open_again(descriptor, os.O_RDONLY)
    try:
        yield descriptor if opened < 0 else opened
    finally:
        if opened >= 0:
            os.close(opened)


def _open_again(descriptor: int, mode: int) -> int:
    """Return a non-blocking descriptor of the same pipe or terminal; -1 where there is none."""
    if not (stat.S_ISFIFO(os.fstat(descriptor).st_mode) or os.isatty(descriptor)):
        return -1
    try:
        flags = mode | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
        return os.open(f"/proc/self/fd/{descriptor}", flags)
    except OSError:  # no /proc, or somebody else's: then it is written to in small pieces
        return -1
