"""Our own words to the user, on standard error: also while the terminal is the guest's."""

import os
from contextlib import contextmanager

from initrd.host.terminal import RawTerminal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

STDIN, STDOUT, STDERR = 0, 1, 2


class Voice:
    """Speaks to the user."""

    def __init__(self) -> None:
        self._end = b"\n"

    def say(self, text: str) -> None:
        """Say something as chrootvm."""
        self.pass_on(f"chrootvm: {text}\n".encode(errors="surrogateescape"))

    def pass_on(self, data: bytes) -> None:
        """Print what a program of ours said."""
        try:
            os.write(STDERR, data.replace(b"\n", self._end))
        except OSError:  # nobody reads it; there is nobody else to tell
            pass

    @contextmanager
    def raw(self) -> "Iterator[None]":
        """Give the terminal to the guest, as long as the `with` lasts."""
        with RawTerminal(STDIN):
            self._end = b"\r\n"  # the terminal does not add the return now
            try:
                yield
            finally:
                self._end = b"\n"
