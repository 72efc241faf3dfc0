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

from initrd.errors import reason
from initrd.host.system.hosterror import HostError
from initrd.host.system.loop import (
    WRITABLE,
    Loop,
    die_of_signal,
    is_ready,
)
from initrd.host.system.printable import printable, printable_lines
from initrd.host.system.process import fork_watchdog
from initrd.host.system.stream import Sink

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Self

STDIN, STDOUT, STDERR = 0, 1, 2
_MAX_QUEUED = 1 << 16  # bytes of messages that standard error does not take yet
_WRITE_TIMEOUT = 1.0  # seconds that a program waits at its end for messages to be written
_ESCAPE_KEY, _ESCAPE_COUNT, _ESCAPE_SECONDS = 0x1D, 3, 1.0  # Ctrl-]
_PREFIX_KEY = 0x01  # Ctrl-A
ESCAPE_KEYS, END_KEYS = "Ctrl-] three times", "Ctrl-A X"
CONSOLE_KEYS = f"{END_KEYS} ends the machine, Ctrl-A Ctrl-A sends Ctrl-A, Ctrl-A H prints this help"
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


def print_output(*lines: str) -> None:
    """Print lines to standard output; what is not printable in them is escaped.

    Raises HostError. When the reader of standard output has gone, SIGPIPE ends this process.
    """
    try:
        with open(STDOUT, "wb", closefd=False) as output:  # bytes: the locale does not matter
            output.write("".join(f"{printable(line)}\n" for line in lines).encode())
    except BrokenPipeError:
        die_of_signal(signal.SIGPIPE)
    except OSError as error:
        raise HostError("cannot write to standard output", reason(error)) from error


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


class ConsoleKeys:
    """Handles the keys of a console that begin with Ctrl-A, as CONSOLE_KEYS says.

    They are those of QEMU's own consoles. Other keys after Ctrl-A do nothing, as there.
    """

    def __init__(self, on_help: "Callable[[], object]") -> None:
        self.is_complete = False  # the machine is to end
        self._on_help, self._is_second = on_help, False

    def translate(self, keys: bytes) -> bytes:
        """Return what the guest gets when these keys are pressed."""
        if _PREFIX_KEY not in keys and not self._is_second:
            return keys
        typed = bytearray()
        for key in keys:
            if self._is_second:
                typed += self._handle_second(key)
            elif key != _PREFIX_KEY:
                typed.append(key)
            self._is_second = key == _PREFIX_KEY and not self._is_second
        return bytes(typed)

    def _handle_second(self, key: int) -> bytes:
        if key in b"xX":
            self.is_complete = True
        elif key in b"hH":
            self._on_help()
        return bytes([_PREFIX_KEY]) if key in (_PREFIX_KEY, *b"aA") else b""


class RawTerminal:
    """A terminal in raw mode inside a `with`: each key is readable at once, output is unchanged.

    A process in the background is stopped on entry (SIGTTOU), as the shell's job control does.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self.is_raw = False  # as far as this process knows

    def __enter__(self) -> "Self":
        self._modes: Modes = termios.tcgetattr(self._descriptor)
        self._watchdog, self._watchdog_pipe = _start_watchdog(self._descriptor, self._modes)
        tty.setraw(self._descriptor, termios.TCSADRAIN)
        self.is_raw = True
        return self

    def suspend(self) -> None:
        """Restore the modes, for the time that this process is stopped."""
        _set_modes(self._descriptor, self._modes)
        self.is_raw = False

    def resume(self) -> bool:
        """Set raw mode again, unless this process is in the background; return whether it is set.

        The modes may be those of a shell: SIGSTOP gives no opportunity to restore them.
        """
        self.is_raw = in_foreground(self._descriptor)
        if self.is_raw:
            try:
                tty.setraw(self._descriptor, termios.TCSADRAIN)
            except termios.error:  # the terminal has gone; the next read of it fails too
                pass
        return self.is_raw

    def __exit__(self, *_: object) -> None:
        _set_modes(self._descriptor, self._modes)
        os.write(self._watchdog_pipe, b"done")
        os.close(self._watchdog_pipe)
        os.waitpid(self._watchdog, 0)


def format_message(text: str) -> bytes:
    """Return the line of a message. What is not printable is escaped: the guest may send it."""
    return f"chrootvm: {printable(text)}\n".encode()


class MessageWriter:
    """Writes messages to standard error, also while the terminal is raw.

    A standard error that nobody reads does not hold up the program. With a loop, messages wait in a
    queue, and those that do not fit are left out and counted; `close` has to be called. Without
    one, each message has at most _WRITE_TIMEOUT seconds.
    """

    def __init__(self, loop: Loop | None = None, descriptor: int = STDERR) -> None:
        self._loop, self._descriptor = loop, descriptor
        self._terminal: RawTerminal | None = None
        self._sink: Sink | None = None  # opened for the first message
        self._queue = bytearray()
        self._left_out = 0  # messages

    def print_message(self, text: str) -> None:
        """Write a message of chrootvm, in one line."""
        self._append(format_message(text))

    def print_error(self, error: HostError) -> None:
        """Write the message of an error, which may have several lines."""
        self._append(f"chrootvm: {error}\n".encode())

    def print_lines(self, *lines: str) -> None:
        """Write lines that do not begin with the name of chrootvm."""
        self._append("".join(f"{printable(line)}\n" for line in lines).encode())

    def print_output_of(self, data: bytes) -> None:
        """Write a piece of the output of QEMU or virtiofsd, with its line breaks and tabs.

        A character of several bytes that is cut by the end of a piece is escaped, too.
        """
        self._append(printable_lines(data.decode(errors="surrogateescape")).encode())

    def begin_line(self) -> None:
        """Begin the next message with a line break: the guest may have left no end.

        It is right for a terminal in raw mode, too.
        """
        self._queue += b"\r\n"

    def _append(self, data: bytes) -> None:
        """Append bytes to the queue, and write what can be written."""
        if self._queue and len(self._queue) + len(data) > _MAX_QUEUED:
            self._left_out += 1
            return
        self._queue += data.replace(b"\n", self._newline())
        self._write()
        if self._loop is None:
            self.close()

    def close(self) -> None:
        """Wait a limited time until all is written. Later messages open standard error again."""
        deadline = time.monotonic() + _WRITE_TIMEOUT
        while self._sink and self._queue and (seconds := deadline - time.monotonic()) > 0:
            is_ready(self._sink.descriptor, WRITABLE, seconds)
            self._write()
        self._queue.clear()
        self._watch(self._sink, watched=False)
        if self._sink:
            self._sink.close()
        self._sink = None

    def _write(self) -> None:
        """Write the beginning of the queue, as much as is possible without waiting."""
        try:
            self._sink = self._sink or Sink(self._descriptor)
            del self._queue[: self._sink.write(bytes(self._queue))]
        except OSError:  # standard error is closed, and errors have no other place to go to
            self._queue.clear()
        if self._left_out and not self._queue:
            text = f"{self._left_out} messages are left out: standard error did not take them"
            self._left_out = 0
            self._queue += format_message(text).replace(b"\n", self._newline())
        self._watch(self._sink, watched=bool(self._queue))

    def _watch(self, sink: Sink | None, *, watched: bool) -> None:
        if sink and self._loop:
            if watched:
                self._loop.watch(sink.descriptor, WRITABLE, lambda _: self._write())
            else:
                self._loop.unwatch(sink.descriptor)

    def _newline(self) -> bytes:
        """Return what ends a line: a raw terminal does not add the carriage return."""
        return b"\r\n" if self._terminal and self._terminal.is_raw else b"\n"

    @contextmanager
    def raw(self) -> "Iterator[RawTerminal]":
        """Set standard input's terminal to raw mode inside the `with`."""
        with RawTerminal(STDIN) as entered:
            self._terminal = entered
            try:
                yield entered
            finally:
                self._terminal = None


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
