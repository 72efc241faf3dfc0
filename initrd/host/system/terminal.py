"""The user's terminal: raw while a guest has it, and put back whatever happens.

Even `kill -9` of this process: a guard, a small process of its own, waits for that.
"""

import os
import signal
import sys
import termios
import tty
from contextlib import contextmanager

from initrd.errors import HostError, reason
from initrd.host.system.loop import ENDING, die_of_signal

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import NoReturn, Self

Modes = list["int | list[bytes | int]"]
STDIN, STDOUT, STDERR = 0, 1, 2


def is_terminal(*descriptors: int) -> bool:
    """Tell whether all of them are terminals."""
    return all(os.isatty(descriptor) for descriptor in descriptors)


def in_foreground(descriptor: int) -> bool:
    """Tell whether it may be read: a job in the background that reads its terminal is stopped."""
    try:
        return os.tcgetpgrp(descriptor) == os.getpgrp()
    except OSError:  # ENOTTY: it is no terminal, or none that controls us
        return True


def size(descriptor: int) -> tuple[int, int]:
    """Return the rows and columns of a terminal."""
    columns, rows = os.get_terminal_size(descriptor)
    return rows, columns


class RawTerminal:
    """A terminal that hands over every key as it is pressed, and prints bytes as they come.

    When this process is in the background it is stopped here, as the shell's job control wants it.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def __enter__(self) -> "Self":
        self._modes: Modes = termios.tcgetattr(self._descriptor)
        self._guard, self._leash = _start_guard(self._descriptor, self._modes)
        tty.setraw(self._descriptor, termios.TCSADRAIN)
        return self

    def __exit__(self, *_: object) -> None:
        _set_modes(self._descriptor, self._modes)
        os.write(self._leash, b"done")
        os.close(self._leash)
        os.waitpid(self._guard, 0)


def _set_modes(descriptor: int, modes: Modes) -> None:
    """Set a terminal's modes, also from the background."""
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTTOU])
    try:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, modes)
    except termios.error:  # it is gone: there is nothing to put back
        pass
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)


def _start_guard(descriptor: int, modes: Modes) -> tuple[int, int]:
    """Return the pid of the guard, and the descriptor whose closing wakes it."""
    reader, writer = os.pipe()
    pid = os.fork()
    if not pid:
        _guard(descriptor, modes, reader, writer)
    os.close(reader)
    return pid, writer


def _guard(descriptor: int, modes: Modes, reader: int, writer: int) -> "NoReturn":
    try:
        signal.set_wakeup_fd(-1)
        for number in ENDING:  # as when all of a control group is ended: this one is the last
            signal.signal(number, signal.SIG_IGN)
        os.setsid()  # keys such as Ctrl-C are not for this one
        os.close(writer)
        os.closerange(3, reader)
        os.closerange(reader + 1, 1 << 20)
        if not os.read(reader, 4):
            _set_modes(descriptor, modes)
    except BaseException:
        sys.excepthook(*sys.exc_info())
    os._exit(0)


def print_output(text: str) -> None:
    """Print what the user asked to be shown. Raises HostError; ends us when nobody reads it."""
    try:
        with open(STDOUT, "wb", closefd=False) as output:  # whatever the locale is
            output.write(os.fsencode(f"{text}\n"))
    except BrokenPipeError:
        die_of_signal(signal.SIGPIPE)
    except OSError as error:
        raise HostError("cannot write to standard output", reason(error)) from error


def escape_controls(text: str) -> str:
    r"""Return `text` with what would move a cursor, or do worse, written as `\x1b`.

    Line breaks stay, and so do bytes that are no UTF-8: file names have them.
    """
    return "".join(
        char
        if char.isprintable() or char == "\n" or "\udc80" <= char <= "\udcff"
        else char.encode("unicode_escape").decode()
        for char in text
    )


class MessageWriter:
    """Speaks to the user."""

    def __init__(self) -> None:
        self._end = b"\n"

    def say(self, text: str) -> None:
        """Say something as chrootvm. Some of it may be the guest's words: it gets no escapes."""
        self.write_bytes(f"chrootvm: {escape_controls(text)}\n".encode(errors="surrogateescape"))

    def write_bytes(self, data: bytes) -> None:
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
