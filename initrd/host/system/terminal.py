"""The user's terminal: its state and size, raw mode that is always undone; messages to the user.

While the terminal is raw, a child process, the watchdog, waits for the end of this process and then
restores the modes, so that even `kill -9` leaves a usable terminal.
"""

import os
import signal
import termios
import time
import tty
from contextlib import contextmanager

from initrd.errors import HostError, reason
from initrd.host.system.loop import die_of_signal
from initrd.host.system.process import fork_watchdog

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Self

STDIN, STDOUT, STDERR = 0, 1, 2
_ESCAPE_KEY, _ESCAPE_COUNT, _ESCAPE_SECONDS = 0x1D, 3, 1.0  # Ctrl-]
Modes = list["int | list[bytes | int]"]


def is_terminal(*descriptors: int) -> bool:
    """Return whether all of the descriptors are terminals."""
    return all(os.isatty(descriptor) for descriptor in descriptors)


def in_foreground(descriptor: int) -> bool:
    """Return whether this process may read a terminal: a background job that does is stopped."""
    try:
        return os.tcgetpgrp(descriptor) == os.getpgrp()
    except OSError:  # ENOTTY: no terminal, or not this process's controlling terminal
        return True


def terminal_size(descriptor: int) -> tuple[int, int]:
    """Return the rows and columns of a terminal."""
    columns, rows = os.get_terminal_size(descriptor)
    return rows, columns


def print_output(text: str) -> None:
    """Print text and a line break to standard output.

    Raises HostError. When the reader of standard output has gone, SIGPIPE ends this process.
    """
    try:
        with open(STDOUT, "wb", closefd=False) as output:  # bytes: the locale does not matter
            output.write(os.fsencode(f"{text}\n"))
    except BrokenPipeError:
        die_of_signal(signal.SIGPIPE)
    except OSError as error:
        raise HostError("cannot write to standard output", reason(error)) from error


def escape_controls(text: str) -> str:
    r"""Return `text` with control characters, which can move the cursor, written as `\x1b`.

    Line breaks stay, and so do bytes that are not UTF-8, because file names may have them.
    """
    return "".join(
        char
        if char.isprintable() or char == "\n" or "\udc80" <= char <= "\udcff"
        else char.encode("unicode_escape").decode()
        for char in text
    )


class EscapeKey:
    """Detects that Ctrl-] is pressed three times within a second, with no other key between.

    It ends a machine whose program ignores everything, as with systemd-nspawn(1).
    """

    def __init__(self) -> None:
        self.is_complete = False
        self._times: list[float] = []  # of the last presses, by the monotonic clock

    def feed(self, keys: bytes, now: float | None = None) -> None:
        """Examine keys that were pressed at the same time. `now`: by the monotonic clock."""
        now = time.monotonic() if now is None else now
        for key in keys:
            self._times = [*self._times[1 - _ESCAPE_COUNT :], now] if key == _ESCAPE_KEY else []
            if len(self._times) == _ESCAPE_COUNT and now - self._times[0] <= _ESCAPE_SECONDS:
                self.is_complete = True


class RawTerminal:
    """A terminal in raw mode inside a `with`: each key is readable at once, output is unchanged.

    A process in the background is stopped on entry (SIGTTOU), as the shell's job control does.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def __enter__(self) -> "Self":
        self._modes: Modes = termios.tcgetattr(self._descriptor)
        self._watchdog, self._watchdog_pipe = _start_watchdog(self._descriptor, self._modes)
        tty.setraw(self._descriptor, termios.TCSADRAIN)
        return self

    def __exit__(self, *_: object) -> None:
        _set_modes(self._descriptor, self._modes)
        os.write(self._watchdog_pipe, b"done")
        os.close(self._watchdog_pipe)
        os.waitpid(self._watchdog, 0)


class MessageWriter:
    """Writes messages to standard error, also while the terminal is raw."""

    def __init__(self) -> None:
        self._newline = b"\n"

    def print_message(self, text: str) -> None:
        """Write a message of chrootvm. Control characters are escaped: the guest may send them."""
        self.write_bytes(f"chrootvm: {escape_controls(text)}\n".encode(errors="surrogateescape"))

    def write_bytes(self, data: bytes) -> None:
        """Write output of QEMU or virtiofsd, unchanged but for the line ends."""
        try:
            os.write(STDERR, data.replace(b"\n", self._newline))
        except OSError:  # standard error is closed, and errors have no other place to go to
            pass

    @contextmanager
    def raw(self) -> "Iterator[None]":
        """Set standard input's terminal to raw mode inside the `with`."""
        with RawTerminal(STDIN):
            self._newline = b"\r\n"  # a raw terminal does not add the carriage return
            try:
                yield
            finally:
                self._newline = b"\n"


def _set_modes(descriptor: int, modes: Modes) -> None:
    """Set a terminal's modes, also from the background."""
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTTOU])
    try:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, modes)
    except termios.error:  # the terminal has gone
        pass
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)


def _start_watchdog(descriptor: int, modes: Modes) -> tuple[int, int]:
    """Return the watchdog's pid, and the writing end of the pipe that it reads.

    The end of this process closes the pipe; `RawTerminal` writes to it after restoring the modes.
    """
    reader, writer = os.pipe()

    def wait() -> None:
        if not os.read(reader, 4):
            _set_modes(descriptor, modes)

    pid = fork_watchdog(wait, reader)
    os.close(reader)
    return pid, writer
