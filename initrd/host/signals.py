"""Signals wait for the loop, so that nothing is ever left half done because of one."""

import os
import signal

from initrd.host.loop import READABLE, Loop

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Self

ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
OTHERS = (signal.SIGUSR1, signal.SIGUSR2, signal.SIGWINCH, signal.SIGCONT)


class Signals:
    """Takes signals over, as long as the `with` lasts, and hands their numbers to `call`.

    `received` is the first one that would have ended us, or 0.
    """

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        self.received = 0
        self.call: Callable[[int], object] = lambda _: None

    def __enter__(self) -> "Self":
        self._reader, self._writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._old_writer = signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)
        self._old = {number: signal.getsignal(number) for number in (*ENDING, *OTHERS)}
        for number, old in self._old.items():
            if old != signal.SIG_IGN:  # nohup and the like: whoever started us wants that
                signal.signal(number, lambda *_: None)
        self._loop.watch(self._reader, READABLE, self._take)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.ignore(self._reader)
        for number, old in self._old.items():
            signal.signal(number, old)
        signal.set_wakeup_fd(self._old_writer)
        os.close(self._reader)
        os.close(self._writer)

    def _take(self, _: int) -> None:
        for number in os.read(self._reader, 64):
            if number in ENDING and not self.received:
                self.received = number
            self.call(number)


def die_of(number: int) -> None:
    """End this process as the signal would have ended it, so that a shell sees what happened."""
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)
