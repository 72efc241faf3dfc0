"""What our programs say on standard error: read all the time, and the end of it kept."""

import os

from initrd.host.loop import Loop
from initrd.host.relay import Relay

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Self

_KEPT = 4096  # bytes


class Words:
    """A pipe for a program's standard error. `writer` is its end of it."""

    def __init__(self, loop: Loop, see: "Callable[[bytes], object]") -> None:
        self._see, self._said = see, b""
        self._reader, self.writer = os.pipe()
        self._relay = Relay(loop, self._reader, None, self._hear)

    def __enter__(self) -> "Self":
        return self

    def __exit__(self, *_: object) -> None:
        self._relay.stop()
        os.close(self._reader)
        os.close(self.writer)

    def _hear(self, data: bytes) -> None:
        self._said = (self._said + data)[-_KEPT:]
        self._see(data)

    def last(self) -> str:
        """Return the last lines that were said so far, in one."""
        self._relay.read_now()
        lines = self._said.decode(errors="replace").split("\n")
        return "; ".join(line.strip() for line in lines[-4:] if line.strip())
