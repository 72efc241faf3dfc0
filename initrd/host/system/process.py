"""Programs that we start: each is owned by a `with`, and none outlives us, whatever kills us.

Started by fork and exec by hand, because what happens in between has to be told when it fails:
`subprocess` reports no more than that something did.
"""

import errno
import os
import signal
import sys
import time
import warnings
from contextlib import contextmanager

from initrd.errors import HostError, reason
from initrd.host.system.loop import READABLE, is_ready
from initrd.host.system.syscalls import die_with_parent
from initrd.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import NoReturn, Self

# What Python ignores, what we handle, and what whoever started us may have ignored.
_OURS = ("SIGPIPE", "SIGXFSZ", "SIGINT", "SIGTERM", "SIGHUP", "SIGCHLD")
_PATIENCE = 2.0  # seconds that a program has to end after SIGTERM
_DEADLINE = 1.0  # seconds; what is tried here takes microseconds
_TIME = 20.0  # seconds; an answer takes a fraction of one
_SHORT = {  # what may run out at any step, and what to try then
    errno.EMFILE: "ulimit -n 1024",
    errno.ENFILE: "again when fewer files are open on this machine",
    errno.ENOMEM: "again when more memory is free, or a smaller --memory",
    errno.EAGAIN: "fewer processes, or a higher ulimit -u",
    errno.EFBIG: "ulimit -f unlimited",
    errno.ENOSPC: "again with more room in the cache and in /tmp",
}


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


def fork() -> int:
    """Do what os.fork() does.

    From Python 3.12 on that warns in a process with threads, because what the others hold in that
    moment stays locked in the child. Ours only makes system calls until it executes a program.
    Where warnings are errors, that one would come after the fork, with nobody to own the child.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return os.fork()


def run_in_child(experiment: "Callable[[], str]", deadline: float = _DEADLINE) -> str:
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


def capture_output(program: str, *words: str) -> bytes:
    """Return what a program prints, standard error last, whatever its exit status.

    Raises HostError when it cannot be run, or does not end.
    """
    import subprocess  # noqa: PLC0415 - a long import; most starts run nothing this way

    null, command = subprocess.DEVNULL, [program, *words]
    try:
        said = subprocess.run(command, stdin=null, capture_output=True, timeout=_TIME, check=False)
    except OSError as error:
        raise HostError(f"cannot run {program}", reason(error)) from error
    except subprocess.TimeoutExpired as error:
        raise HostError(f"cannot use {program}", f"it does not answer {words[0]}") from error
    return said.stdout + said.stderr


@contextmanager
def shortage() -> "Iterator[None]":
    """Turn an OSError for what has run out here, at whichever step, into a HostError."""
    try:
        yield
    except OSError as error:
        if error.errno not in _SHORT:
            raise
        raise HostError("cannot go on", reason(error), _SHORT[error.errno]) from error
