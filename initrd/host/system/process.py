"""Run programs: as processes that end with this one, in a forked child, or for their output.

A `Process` is owned by a `with`, and its program is killed when this process ends, however it ends.
The module calls fork and exec itself, to report which step between the two has failed and why:
`subprocess` reports only that one of them has.
"""

import errno
import os
import signal
import sys
import time
import warnings
from contextlib import contextmanager

from initrd.errors import reason
from initrd.host.system.hosterror import HostError
from initrd.host.system.loop import READABLE, TERMINATING_SIGNALS, is_ready
from initrd.host.system.syscalls import die_with_parent
from initrd.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import NoReturn, Self

# Signals that Python ignores, that this program handles, or that its parent may have ignored.
_RESET_SIGNALS = ("SIGPIPE", "SIGINT", "SIGTERM", "SIGHUP", "SIGCHLD")
_CLOSE_TIMEOUT = 2.0  # seconds that a program has to end after SIGTERM
_CHILD_TIMEOUT = 1.0  # seconds; functions run in a child take microseconds
_OUTPUT_TIMEOUT = 20.0  # seconds; a program prints its version in a fraction of one
_SHORTAGE_HINTS = {  # what to try when a resource is exhausted, which may happen at any step
    errno.EMFILE: "ulimit -n 1024",
    errno.ENFILE: "again when fewer files are open on this machine",
    errno.ENOMEM: "again when more memory is free, or a smaller --memory",
    errno.EAGAIN: "fewer processes, or a higher ulimit -u",
    errno.EFBIG: "ulimit -f unlimited",
    errno.ENOSPC: "again with more room in the cache and in /tmp",
}


def _do_nothing() -> None:
    pass


class Program(Record):
    """A program to run."""

    command: tuple[str, ...]
    descriptors: tuple[int, ...] = ()  # inherited, with the same numbers
    before: "Callable[[], None]" = staticmethod(_do_nothing)  # called in the child before exec
    # Called in the child first of all: it is carried out even when the parent is killed meanwhile.
    first: "Callable[[], None]" = staticmethod(_do_nothing)
    standard: tuple[int, int] | None = None  # its standard input and output; None: without data


class Process:
    """A running program in a session of its own.

    An OSError or HostError of the program's `before`, or of `execve`, is raised as a HostError.
    """

    def __init__(self, program: Program, stderr: int, ending: int = signal.SIGTERM) -> None:
        """Start the program. `ending`: the signal by which `close` ends it first."""
        self._ending = ending
        self.name = os.path.basename(program.command[0])
        self._status: int | None = None
        self.pid, self.pidfd = 0, -1
        if signal.getsignal(signal.SIGCHLD) == signal.SIG_IGN:
            why = "SIGCHLD is ignored here, so its end would not be noticed"
            hint = "signal.signal(SIGCHLD, SIG_DFL) before"
            raise HostError(f"cannot start {self.name}", why, hint)
        try:
            self._start(program, stderr)
        except BaseException:  # also after a KeyboardInterrupt no process may be left
            self._kill()
            raise

    def __enter__(self) -> "Self":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def status(self) -> int | None:
        """Return the exit status, -N after signal N, or None while the program runs."""
        if self._status is None:
            # The process stays a zombie until `close`, so that no other process gets its pid.
            ended = os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            if ended:
                exited = ended.si_code == os.CLD_EXITED
                self._status = ended.si_status if exited else -ended.si_status
        return self._status

    def wait(self, seconds: float) -> int | None:
        """Wait for the program to end; return its status, or None when it still runs."""
        deadline = time.monotonic() + seconds
        while self.status() is None:
            remaining = deadline - time.monotonic()
            if remaining <= 0 or not is_ready(self.pidfd, READABLE, remaining):
                break
        return self.status()

    def send(self, number: int) -> None:
        """Send a signal to the program, but not to its children."""
        if self.status() is None:
            os.kill(self.pid, number)

    def close(self, timeout: float = _CLOSE_TIMEOUT) -> None:
        """End the program: by its signal, then its process group by SIGKILL.

        `timeout`: how many seconds to wait after each of the two.
        """
        if self.pidfd < 0:
            return
        self.send(self._ending)
        self.wait(timeout)
        os.killpg(self.pid, signal.SIGKILL)
        self.wait(timeout)
        os.waitpid(self.pid, os.WNOHANG)  # a process that survives SIGKILL is left to init
        os.close(self.pidfd)
        self.pidfd = -1

    def _start(self, program: Program, stderr: int) -> None:
        reader, writer = os.pipe()
        with open(reader, "rb") as pipe:
            try:
                self._fork(program, writer, stderr)
            finally:
                os.close(writer)
            self.pidfd = os.pidfd_open(self.pid)
            why, _, hint = pipe.read().decode(errors="surrogateescape").partition("\0")
        if why:
            raise HostError(f"cannot start {self.name}", why, hint)

    def _fork(self, program: Program, error_pipe: int, stderr: int) -> None:
        # No signal handler of Python, SIGINT's included, may run between fork and exec.
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        try:
            parent = os.getpid()
            self.pid = fork()
            if not self.pid:
                _exec(program, parent, error_pipe, stderr)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)

    def _kill(self) -> None:
        """Kill a program that did not start, or whose start was interrupted."""
        if self.pid:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
        if self.pidfd >= 0:
            os.close(self.pidfd)
        self.pid, self.pidfd = 0, -1


def fork() -> int:
    """Fork as os.fork() does, without its DeprecationWarning.

    From Python 3.12 on os.fork() warns in a process with threads, because locks that other threads
    hold stay locked in the child. The children of this module make only system calls until they
    execute a program. Where warnings are errors, the warning would be raised after the fork, and
    the child would have no owner.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return os.fork()


def fork_watchdog(function: "Callable[[], None]", *descriptors: int) -> int:
    """Call `function` in a child process that outlives signals to this one; return its pid.

    The child ends with `function`. It keeps the standard streams and `descriptors` only.
    """
    pid = fork()
    if not pid:
        _run_watchdog(function, descriptors)
    return pid


def run_in_child(function: "Callable[[], str]", timeout: float = _CHILD_TIMEOUT) -> str:
    """Return the result of `function`, called in a child process; empty when it hangs or crashes.

    `function` may change its process in any way, and must not raise. `timeout`: in seconds.
    """
    reader, writer = os.pipe()
    pid = fork()
    if not pid:
        _write_result(function, writer, timeout)
    os.close(writer)
    try:
        finished = is_ready(reader, READABLE, timeout)
        result = os.read(reader, 1024).decode() if finished else ""
    finally:
        os.close(reader)
    if not finished:
        os.kill(pid, signal.SIGKILL)
    # A process stuck in a system call cannot be waited for: init reaps it later.
    os.waitpid(pid, 0 if finished else os.WNOHANG)
    return result


def capture_output(program: str, *words: str, timeout: float = _OUTPUT_TIMEOUT) -> bytes:
    """Return what a program prints, standard error last, whatever its exit status.

    `timeout`: in seconds. Raises HostError when the program cannot be run, or does not end.
    """
    with (
        open(os.devnull, "rb") as null,
        open(os.memfd_create("stdout"), "w+b") as out,
        open(os.memfd_create("stderr"), "w+b") as err,
    ):
        described = Program((program, *words), standard=(null.fileno(), out.fileno()))
        try:
            process = Process(described, err.fileno())
        except HostError as error:
            why = error.why.removeprefix(f"{program}: ")
            raise HostError(f"cannot run {program}", why) from error
        with process:
            if process.wait(timeout) is None:
                raise HostError(f"cannot use {program}", f"it does not answer {words[0]}")
        for file in (out, err):
            file.seek(0)
        return out.read() + err.read()


@contextmanager
def explain_shortage() -> "Iterator[None]":
    """Raise a HostError in place of the exception for a resource that is exhausted or missing.

    That is memory and the like, and the working directory, to which relative names belong.
    """
    try:
        yield
    except MemoryError as error:
        hint = _SHORTAGE_HINTS[errno.ENOMEM]
        raise HostError("cannot go on", os.strerror(errno.ENOMEM), hint) from error
    except OSError as error:
        if error.errno == errno.ENOENT and not _has_working_directory():
            why = "the working directory does not exist any more"
            raise HostError("cannot use a relative name", why, "cd to another directory") from error
        if error.errno not in _SHORTAGE_HINTS:
            raise
        raise HostError("cannot go on", reason(error), _SHORTAGE_HINTS[error.errno]) from error


def _has_working_directory() -> bool:
    try:
        os.getcwd()
    except FileNotFoundError:
        return False
    return True


def _exec(program: Program, parent: int, error_pipe: int, stderr: int) -> "NoReturn":
    """Execute the program in this process, just forked; write the reason of a failure to a pipe."""
    try:
        program.first()
        die_with_parent(signal.SIGKILL)
        if os.getppid() != parent:  # the parent ended before `die_with_parent`
            os._exit(1)
        os.setsid()
        _set_descriptors(program, stderr)
        program.before()
        _reset_signals()
        os.execvp(program.command[0], program.command)  # noqa: S606
    except OSError as error:
        why = f"{error.filename}: {reason(error)}" if error.filename else reason(error)
        os.write(error_pipe, why.encode(errors="surrogateescape"))
    except HostError as error:
        text = f"{error.what}: {error.why}\0{error.hint}"
        os.write(error_pipe, text.encode(errors="surrogateescape"))
    except BaseException:
        # A bug in this program: print the traceback, which a bug report needs.
        sys.excepthook(*sys.exc_info())
    os._exit(125)


def _set_descriptors(program: Program, stderr: int) -> None:
    null = os.open(os.devnull, os.O_RDWR)
    for number, descriptor in enumerate((*(program.standard or (null, null)), stderr)):
        os.dup2(descriptor, number)
    for descriptor in program.descriptors:
        os.set_inheritable(descriptor, True)


def _reset_signals() -> None:
    """Give signals their default actions, and block none.

    SIGXFSZ is ignored: where a file may not grow further, the program gets the error EFBIG.
    """
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    for name in _RESET_SIGNALS:
        signal.signal(signal.Signals[name], signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, [])


def _run_watchdog(function: "Callable[[], None]", descriptors: "tuple[int, ...]") -> "NoReturn":
    try:
        signal.set_wakeup_fd(-1)
        # A signal to the whole control group must not end the watchdog before its parent.
        for number in TERMINATING_SIGNALS:
            signal.signal(number, signal.SIG_IGN)
        os.setsid()  # Ctrl-C and the like do not reach another session
        start = 3
        for descriptor in sorted(descriptors):
            os.closerange(start, descriptor)
            start = descriptor + 1
        os.closerange(start, 1 << 20)
        function()
    except BaseException:
        sys.excepthook(*sys.exc_info())
    os._exit(0)


def _write_result(function: "Callable[[], str]", writer: int, timeout: float) -> "NoReturn":
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGALRM])
    signal.setitimer(signal.ITIMER_REAL, timeout)
    try:
        os.write(writer, function().encode())
    finally:
        os._exit(0)
