"""The pipes between QEMU and the guest's serial port, which is the console.

QEMU has them as standard input and output. A pipe loses no output: into a socket QEMU writes about
280 single bytes and drops the next ones, and so does any stream that QEMU writes to without
blocking, because an emulated serial port waits for a few retries only. So O_NONBLOCK, which QEMU
sets, is removed from the pipe of the output. A guest whose output is not read stands still then.

Source: QEMU's chardev/char-fd.c and hw/char/serial.c; pipe(7).
"""

import fcntl
import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Self


class SerialPipes:
    """Two pipes. The ends are closed with the `with`.

    `keyboard` is written to and `output` read from here; `of_qemu` are standard input and output
    of QEMU.
    """

    def __init__(self) -> None:
        self._open: set[int] = set()
        stdin, self.keyboard = self._make_pipe()
        self.output, stdout = self._make_pipe()
        self.of_qemu = (stdin, stdout)

    def __enter__(self) -> "Self":
        return self

    def __exit__(self, *_: object) -> None:
        self.close(*tuple(self._open))

    def close(self, *ends: int) -> None:
        """Close ends of the pipes, unless they are closed."""
        for end in ends:
            if end in self._open:
                self._open.remove(end)
                os.close(end)

    def make_blocking(self) -> None:
        """Let QEMU wait until its output is read. QEMU has written something before the call."""
        _, stdout = self.of_qemu
        if stdout in self._open:
            flags = fcntl.fcntl(stdout, fcntl.F_GETFL)
            fcntl.fcntl(stdout, fcntl.F_SETFL, flags & ~os.O_NONBLOCK)
            self.close(stdout)

    def _make_pipe(self) -> tuple[int, int]:
        ends = os.pipe()
        self._open.update(ends)
        return ends
