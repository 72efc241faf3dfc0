"""Hold back the panic with which the kernel answers the end of INIT, and its trace.

INIT is PID 1, so the kernel panics when it ends. The user is told the exit status instead: the
console's output passes through here on its way to the terminal, and the caller decides at the end
of the machine. Other panics are not held back, and no text is lost when the machine does not end.
"""

import os
import re
import time

from initrd.host.qemu.console import PANIC_BEGIN, TIMESTAMP
from initrd.host.system.loop import WRITABLE, Loop, is_ready
from initrd.host.system.stream import Sink

_PANIC = f"{PANIC_BEGIN}Attempted to kill init!".encode()
_TIMESTAMP = TIMESTAMP.encode()
_TIMESTAMP_BEGIN = rb"\[ *(?:\d+(?:\.\d*(?:\](?:\[ *(?:[TC]\d*\]?)?)?)?)?)?"
_MAX_HELD = 1 << 16  # bytes; the trace has about 4000
_MAX_BEGIN = 100  # bytes of the timestamp and of _PANIC
_BEGIN_TIMEOUT = 0.05  # seconds to wait for the rest of _PANIC
_TRACE_TIMEOUT = 2.0  # seconds to wait for more of the trace, or the end of the machine
_CHECK_INTERVAL = 0.025  # seconds
_WRITE_TIMEOUT = 1.0  # seconds for the last output to be written, when a user ends the machine


class PanicFilter:
    """Splits console output into what is shown at once, and what may be such a panic."""

    def __init__(self) -> None:
        self.held = b""  # the beginning of a panic, or a panic and lines of the kernel after it
        self.has_panic = False  # `held` begins with the whole message
        self._checked = 0  # offset in `held`: the lines up to the next line break are the kernel's
        self._has_timestamps = True  # of the lines of the kernel

    def feed(self, data: bytes) -> bytes:
        """Return the part of the output that can be shown, with `data` as its next piece."""
        self.held += data
        shown = b""
        while self.held:
            if not self.has_panic:
                found = re.search(rb"(?:%s)?%s" % (_TIMESTAMP, _PANIC), self.held)
                shown += self._show(found.start() if found else _find_begin(self.held))
                if not found:
                    break
                self.has_panic, self._checked = True, found.end() - found.start()
                self._has_timestamps = not found[0].startswith(_PANIC)
            other = self._find_other()
            if other < 0 and len(self.held) <= _MAX_HELD:
                break
            shown += self._show(other if other >= 0 else len(self.held))
        return shown

    def release(self) -> bytes:
        """Return what is held back."""
        return self._show(len(self.held))

    def _show(self, length: int) -> bytes:
        """Remove the beginning of what is held back, and return it."""
        shown, self.held = self.held[:length], self.held[length:]
        self.has_panic = False
        return shown

    def _find_other(self) -> int:
        """Return the offset of the first line that is not the kernel's; -1 when there is none.

        The rest of the line with the panic is the kernel's. Without timestamps its lines are like
        all others, so this is the line of another panic then.
        """
        if not self._has_timestamps:
            return self._find_another_panic()
        while (start := self.held.find(b"\n", self._checked) + 1) > 0:
            end = self.held.find(b"\n", start)
            if not _is_of_kernel(self.held[start : end if end >= 0 else None]):
                return start
            if end < 0:  # it is checked again with the rest of it
                break
            self._checked = start
        return -1

    def _find_another_panic(self) -> int:
        """Return the offset of the next line with such a panic; -1 when there is none."""
        found = re.compile(rb"\n(?:%s)?%s" % (_TIMESTAMP, _PANIC)).search(self.held, self._checked)
        self._checked = max(self._checked, len(self.held) - _MAX_BEGIN)
        return found.start() + 1 if found else -1


def _is_of_kernel(line: bytes) -> bool:
    """Return whether a line, or its beginning, can have a timestamp; an empty one can."""
    begin = line[:_MAX_BEGIN].rstrip(b"\r")
    return bool(re.match(_TIMESTAMP, begin) or re.fullmatch(_TIMESTAMP_BEGIN, begin) or not begin)


def _find_begin(data: bytes) -> int:
    """Return the offset of the end of `data` that may be the beginning of a panic."""
    first = max(0, len(data) - _MAX_BEGIN)
    for at in range(first, len(data)):
        if data[at] in b"[K" and _may_become_panic(data[at:]):
            return at
    return len(data)


def _may_become_panic(text: bytes) -> bool:
    timestamp = re.match(_TIMESTAMP, text)
    if timestamp or text.startswith(b"K"):
        return _PANIC.startswith(text[timestamp.end() :] if timestamp else text)
    return bool(re.fullmatch(_TIMESTAMP_BEGIN, text))


class ConsoleSink(Sink):
    """A sink for console output that holds back the panic at the end of INIT."""

    def __init__(self, descriptor: int, loop: Loop, *, shows_all: bool) -> None:
        """Use the timer of `loop`. With `shows_all`, nothing is held back."""
        super().__init__(descriptor)
        self._loop, self._shows_all = loop, shows_all
        self._filter = PanicFilter()
        self._pending = b""  # can be shown, and is not written yet
        self._deadline = 0.0  # when to show what is held back, by the monotonic clock
        self._last_byte = b"\n"

    @property
    def is_written(self) -> bool:
        """Whether all that can be shown is written."""
        return not self._pending

    def write(self, data: "bytes | memoryview") -> int:
        """Take all of `data`, or nothing while earlier output cannot be written."""
        self._write_pending()
        if self._pending:
            return 0
        self._pending = bytes(data) if self._shows_all else self._filter.feed(bytes(data))
        timeout = _TRACE_TIMEOUT if self._filter.has_panic else _BEGIN_TIMEOUT
        self._deadline = time.monotonic() + timeout
        self._write_pending()
        self._set_timer()
        return len(data)

    def drop_panic(self) -> None:
        """Forget the panic that is held back. The cursor of a terminal is at a new line then."""
        if not self._filter.has_panic:
            return
        self._filter.release()
        last_byte = self._pending[-1:] or self._last_byte
        if last_byte != b"\n" and os.isatty(self.descriptor):
            self._pending += b"\r\n"

    def close(self) -> None:
        """Write the rest of the output, and wait until that is done; close the descriptor."""
        self._loop.set_timer(None, self._check)
        self._pending += self._filter.release()
        self._try_to_write()
        deadline = time.monotonic() + _WRITE_TIMEOUT
        while self._pending and time.monotonic() < deadline:
            is_ready(self.descriptor, WRITABLE, max(0.0, deadline - time.monotonic()))
            self._try_to_write()
        super().close()

    def _check(self) -> None:
        """Show what is held back when its time is over, and the output before it is written."""
        if self.is_written and time.monotonic() >= self._deadline:
            self._pending += self._filter.release()
        self._try_to_write()
        self._set_timer()

    def _set_timer(self) -> None:
        is_needed = self._pending or self._filter.held
        self._loop.set_timer(_CHECK_INTERVAL if is_needed else None, self._check)

    def _try_to_write(self) -> None:
        try:
            self._write_pending()
        except OSError:  # a write of the relay fails too, and the relay handles that
            self._pending = b""

    def _write_pending(self) -> None:
        written = super().write(self._pending) if self._pending else 0
        self._last_byte = self._pending[written - 1 : written] if written else self._last_byte
        self._pending = self._pending[written:]
