"""Experiments on this machine's kernel: in a process of their own, which no hang can outlive."""

import os
import signal

from initrd.host.forking import fork
from initrd.host.loop import READABLE, is_ready

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import NoReturn

_DEADLINE = 1.0  # seconds; what is tried here takes microseconds


def run_guarded(experiment: "Callable[[], str]", deadline: float = _DEADLINE) -> str:
    """Return what `experiment` says; nothing when it hangs or crashes.

    It may do to its process what it likes, and must not raise.
    """
    reader, writer = os.pipe()
    pid = fork()
    if not pid:
        _report(experiment, writer, deadline)
    os.close(writer)
    try:
        answered = is_ready(reader, READABLE, deadline)
        said = os.read(reader, 1024).decode() if answered else ""
    finally:
        os.close(reader)
    if not answered:
        os.kill(pid, signal.SIGKILL)
    # A process stuck in the kernel cannot be waited for: it is left to whoever reaps us.
    os.waitpid(pid, 0 if answered else os.WNOHANG)
    return said


def _report(experiment: "Callable[[], str]", writer: int, deadline: float) -> "NoReturn":
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGALRM])
    signal.setitimer(signal.ITIMER_REAL, deadline)
    try:
        os.write(writer, experiment().encode())
    finally:
        os._exit(0)
