"""The user's terminal: raw while a guest has it, and put back whatever happens.

Even `kill -9` of this process: a guard, a small process of its own, waits for that.
"""

import os
import signal
import sys
import termios
import tty

from initrd.host.signals import ENDING

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn, Self

Modes = list["int | list[bytes | int]"]


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
