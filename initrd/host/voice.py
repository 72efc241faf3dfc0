"""Our own words to the user, on standard error: also while the terminal is the guest's."""

import os
import signal
from contextlib import contextmanager

from initrd.host.failure import HostError, reason
from initrd.host.signals import die_of
from initrd.host.terminal import RawTerminal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

STDIN, STDOUT, STDERR = 0, 1, 2


def show(text: str) -> None:
    """Print what the user asked to be shown. Raises HostError; ends us when nobody reads it."""
    try:
        with open(STDOUT, "wb", closefd=False) as output:  # whatever the locale is
            output.write(os.fsencode(f"{text}\n"))
    except BrokenPipeError:
        die_of(signal.SIGPIPE)
    except OSError as error:
        raise HostError("cannot write to standard output", reason(error)) from error


def harmless(text: str) -> str:
    r"""Return `text` with what would move a cursor, or do worse, written as `\x1b`.

    Line breaks stay, and so do bytes that are no UTF-8: file names have them.
    """
    return "".join(
        char
        if char.isprintable() or char == "\n" or "\udc80" <= char <= "\udcff"
        else char.encode("unicode_escape").decode()
        for char in text
    )


class Voice:
    """Speaks to the user."""

    def __init__(self) -> None:
        self._end = b"\n"

    def say(self, text: str) -> None:
        """Say something as chrootvm. Some of it may be the guest's words: it gets no escapes."""
        self.pass_on(f"chrootvm: {harmless(text)}\n".encode(errors="surrogateescape"))

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
