"""Programs that we start: each is owned by a `with`, and none outlives us, whatever kills us.

Started by fork and exec by hand, because what happens in between has to be told when it fails:
`subprocess` reports no more than that something did.
"""

import os
import signal
import sys
import time

from initrd.host.failure import HostError, reason
from initrd.host.forking import fork
from initrd.host.loop import READABLE, is_ready
from initrd.host.syscalls import die_with_parent
from initrd.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import NoReturn, Self

# What Python ignores, what we handle, and what whoever started us may have ignored.
_OURS = ("SIGPIPE", "SIGXFSZ", "SIGINT", "SIGTERM", "SIGHUP", "SIGCHLD")
_PATIENCE = 2.0  # seconds that a program has to end after SIGTERM


def _nothing() -> None:
    pass


class Program(Record):
    """What to run."""

    command: tuple[str, ...]
    descriptors: tuple[int, ...] = ()  # inherited, under the numbers that they have
    before: "Callable[[], None]" = staticmethod(_nothing)  # in the new process, right before exec


class Process:
    """A running program in a session of its own, without standard input or output.

    An OSError or HostError of the program's `before`, or of `execve`, is raised as a HostError.
    """

    def __init__(self, program: Program, stderr: int) -> None:
        self.name = os.path.basename(program.command[0])
        self._status: int | None = None
        self.pid, self.pidfd = 0, -1
        if signal.getsignal(signal.SIGCHLD) == signal.SIG_IGN:
            why = "SIGCHLD is ignored here, so its end would not be noticed"
            hint = "signal.signal(SIGCHLD, SIG_DFL) before"
            raise HostError(f"cannot start {self.name}", why, hint)
        try:
            self._start(program, stderr)
        except BaseException:  # a KeyboardInterrupt, too, must leave nothing behind
            self._end_at_once()
            raise

    def _start(self, program: Program, stderr: int) -> None:
        reader, writer = os.pipe()
        with open(reader, "rb") as pipe:
            try:
                self._fork(program, writer, stderr)
            finally:
                os.close(writer)
            self.pidfd = os.pidfd_open(self.pid)
            why = pipe.read().decode(errors="surrogateescape")
        if why:
            raise HostError(f"cannot start {self.name}", why)

    def _fork(self, program: Program, report: int, stderr: int) -> None:
        # Neither SIGINT nor a Python signal handler may strike between fork and exec.
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        try:
            parent = os.getpid()
            self.pid = fork()
            if not self.pid:
                _become(program, parent, report, stderr)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)

    def _end_at_once(self) -> None:
        """End a program that has not begun, or that nobody can own any more."""
        if self.pid:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
        if self.pidfd >= 0:
            os.close(self.pidfd)
        self.pid, self.pidfd = 0, -1

    def __enter__(self) -> "Self":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def status(self) -> int | None:
        """Return the exit status, -N after signal N, or None while the program runs."""
        if self._status is None:
            # It stays a zombie until `close`, so that its number cannot become somebody else's.
            ended = os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            if ended:
                exited = ended.si_code == os.CLD_EXITED
                self._status = ended.si_status if exited else -ended.si_status
        return self._status

    def wait(self, seconds: float) -> int | None:
        """Wait for the program to end; return its status, or None when it still runs."""
        deadline = time.monotonic() + seconds
        while self.status() is None:
            left = deadline - time.monotonic()
            if left <= 0 or not is_ready(self.pidfd, READABLE, left):
                break
        return self.status()

    def send(self, number: int) -> None:
        """Send a signal to the program alone."""
        if self.status() is None:
            os.kill(self.pid, number)

    def close(self, patience: float = _PATIENCE) -> None:
        """End the program, and every process that it left in its session."""
        if self.pidfd < 0:
            return
        self.send(signal.SIGTERM)
        self.wait(patience)
        os.killpg(self.pid, signal.SIGKILL)
        self.wait(patience)
        os.waitpid(self.pid, os.WNOHANG)  # one that even SIGKILL does not end is left to init
        os.close(self.pidfd)
        self.pidfd = -1


def _become(program: Program, parent: int, report: int, stderr: int) -> "NoReturn":
    """Turn this process, just forked, into the program; report to the parent what fails."""
    try:
        die_with_parent(signal.SIGKILL)
        if os.getppid() != parent:  # it died before we could ask for its death
            os._exit(1)
        os.setsid()
        _connect(program.descriptors, stderr)
        program.before()
        _restore_signals()
        os.execvp(program.command[0], program.command)  # noqa: S606
    except OSError as error:
        said = f"{error.filename}: {reason(error)}" if error.filename else reason(error)
        os.write(report, said.encode(errors="surrogateescape"))
    except HostError as error:
        os.write(report, str(error).encode(errors="surrogateescape"))
    except BaseException:
        # A mistake of ours: whoever reports it needs to see where it is.
        sys.excepthook(*sys.exc_info())
    os._exit(125)


def _connect(descriptors: "tuple[int, ...]", stderr: int) -> None:
    null = os.open(os.devnull, os.O_RDWR)
    for number, descriptor in enumerate((null, null, stderr)):
        os.dup2(descriptor, number)
    for descriptor in descriptors:
        os.set_inheritable(descriptor, True)


def _restore_signals() -> None:
    """Undo what Python ignores and what we handle, and block nothing."""
    for name in _OURS:
        signal.signal(signal.Signals[name], signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
