"""System calls on processes for PID 1: start the command, reap children, send signals.

The decisions, such as when to send which signal, are made in `supervise`.
"""

import errno
import posix as os

from initrd.guest import _syscalls
from initrd.guest.command.spawn import SpawnRequest, spawn
from initrd.text import parse_natural

MAX_REAPED = 64
_OMIT_DIRECTORY = "/run/sendsigs.omit.d"
_MAX_OMIT_FILE = 1 << 16  # bytes
_MAX_STAT_FILE = 4096  # bytes


class Processes:
    """The processes of the machine. Tests use a subclass that touches only their own processes."""

    def receive_signals(self) -> int:
        """Block every signal; return a non-blocking descriptor that reads them: signalfd(2)."""
        _syscalls.block_signals()
        return _syscalls.signal_fd()

    def start(self, request: SpawnRequest) -> int:
        """Start the command; return its process ID. Raises SpawnError or OSError."""
        return spawn(request)

    def reap(self) -> "list[tuple[int, int]]":
        """Collect children that have ended: (process ID, wait status).

        Processes may end as fast as they are collected. So no more than MAX_REAPED are, and a
        SIGCHLD announces the others: the host's messages are read between them.
        """
        ended: list[tuple[int, int]] = []
        while len(ended) < MAX_REAPED:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:  # there are no children
                return ended
            if pid == 0:
                return ended
            ended.append((pid, status))
        os.kill(os.getpid(), _syscalls.SIGCHLD)
        return ended

    def signal(self, pid: int, number: int) -> None:
        """Send a signal to a process; to a process group if `pid` is negative: kill(2)."""
        try:
            os.kill(pid, number)
        except OSError as error:
            # ESRCH: the process has ended; EINVAL: no such signal. Neither is an error here.
            if error.errno not in (errno.ESRCH, errno.EINVAL):
                raise

    def signal_session(self, leader: int, number: int) -> bool:
        """Send a signal to each process of the session that the process `leader` has begun.

        Signals whole process groups: a process that forks meanwhile does not escape (fork(2) is
        started again after a signal). Returns whether there was a process besides zombies.
        """
        groups: set[int] = set()
        for pid in _list_pids():
            group, session = _group_and_session_of(pid)
            if session == leader and group not in groups and _has_program(pid):
                groups.add(group)
                self.signal(-group, number)
        return bool(groups)

    def has_others(self) -> bool:
        """Return whether there are processes besides PID 1, kernel threads and exempt processes."""
        if self._exempt_pids():
            return bool(self._other_pids())
        try:
            os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:  # orphans become children of PID 1: no child, no other process
            return False
        return True

    def has_exempt(self) -> bool:
        """Return whether there are exempt processes, which run until the power-off."""
        return bool(self._exempt_pids())

    def signal_others(self, number: int) -> None:
        """Send a signal to each process of `has_others`. Raises PermissionError outside PID 1."""
        if os.getpid() != 1:
            raise PermissionError(errno.EPERM, "only PID 1 signals every process")
        if self._exempt_pids():
            for pid in self._other_pids():
                self.signal(pid, number)
        else:
            self.signal(-1, number)  # all in one system call: no process escapes by fork(2)

    def _other_pids(self) -> "list[int]":
        exempt = self._exempt_pids()
        return [pid for pid in _list_pids() if pid != 1 and pid not in exempt and _has_program(pid)]

    def _exempt_pids(self) -> "frozenset[int]":
        return read_exempt_pids(_OMIT_DIRECTORY)


def read_exempt_pids(directory: str) -> "frozenset[int]":
    """Return the process IDs in the files of `directory`, which are not to be stopped.

    Any program may write these files: unreadable files and words that are no number are ignored.
    """
    words: list[bytes] = []
    for name in _list_directory(directory):
        words += _read_omit_file(f"{directory}/{name}").split()
    numbers = (parse_natural(word.decode("latin-1")) for word in words)
    return frozenset(number for number in numbers if number is not None)


def _read_omit_file(path: str) -> bytes:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # a FIFO must not block
    except OSError:
        return b""
    try:
        return os.read(fd, _MAX_OMIT_FILE)
    except OSError:
        return b""
    finally:
        os.close(fd)


def _list_directory(path: str) -> "list[str]":
    try:
        return os.listdir(path)
    except (FileNotFoundError, NotADirectoryError, ProcessLookupError):
        return []


def _list_pids() -> "list[int]":
    return [int(name) for name in _list_directory("/proc") if name.isdigit()]


def _group_and_session_of(pid: int) -> "tuple[int, int]":
    """Return the process group and the session of a process, from /proc/PID/stat: proc(5).

    Both are 0 if the process has ended. Its name, in parentheses, may contain any characters.
    """
    try:
        fd = os.open(f"/proc/{pid}/stat", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return 0, 0
    try:
        fields = os.read(fd, _MAX_STAT_FILE).rpartition(b")")[2].split()
    except OSError:
        return 0, 0
    finally:
        os.close(fd)
    return (int(fields[2]), int(fields[3])) if len(fields) > 3 else (0, 0)


def _has_program(pid: int) -> bool:
    """Return whether a process executes a program; kernel threads and zombies do not.

    Every thread is checked: the first thread may have ended while others still run.
    """
    threads = f"/proc/{pid}/task"
    return any(_has_executable(f"{threads}/{name}") for name in _list_directory(threads))


def _has_executable(task: str) -> bool:
    try:
        os.readlink(f"{task}/exe")
    except OSError:  # ENOENT for a kernel thread, a zombie, and a thread that has just ended
        return False
    return True
