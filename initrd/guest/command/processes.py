"""The processes of the machine, as PID 1 sees them: started, reaped, stopped. No decisions."""

import errno
import posix as os

from initrd.guest import _syscalls
from initrd.guest.command.spawn import SpawnRequest, spawn
from initrd.text import parse_natural

_SPARED = "/run/sendsigs.omit.d"
_LONGEST_LIST = 1 << 16  # bytes


class Processes:
    """What supervision does to processes. Tests hand over one that only touches their own."""

    def receive_signals(self) -> int:
        """Block every signal; return a non-blocking descriptor that reads them: signalfd(2)."""
        _syscalls.block_signals()
        return _syscalls.signal_fd()

    def start(self, what: SpawnRequest) -> int:
        """Start the command; return its process. Raises NotStarted or OSError."""
        return spawn(what)

    def reap(self) -> "list[tuple[int, int]]":
        """Collect every child that has ended: (process, wait status)."""
        ended: list[tuple[int, int]] = []
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:  # there are no children at all
                return ended
            if pid == 0:
                return ended
            ended.append((pid, status))

    def signal(self, pid: int, number: int) -> None:
        """Send a signal to a process, or with a negative number to a process group."""
        try:
            os.kill(pid, number)
        except OSError as error:
            # ESRCH: it has ended; EINVAL: there is no such signal. Nothing to do in either case.
            if error.errno not in (errno.ESRCH, errno.EINVAL):
                raise

    def any_left(self) -> bool:
        """Tell whether there is any process that has to be stopped."""
        if self._exempt():
            return bool(self._others())
        try:
            os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:  # PID 1 without a child is alone with the kernel
            return False
        return True

    def any_exempt(self) -> bool:
        """Tell whether some process is to live on until the very end."""
        return bool(self._exempt())

    def signal_others(self, number: int) -> None:
        """Send a signal to every process that has to be stopped; only PID 1 may do that."""
        if os.getpid() != 1:
            raise PermissionError(errno.EPERM, "only PID 1 signals every process")
        if self._exempt():
            for pid in self._others():
                self.signal(pid, number)
        else:
            self.signal(-1, number)  # all at once: none can fork past it

    def _others(self) -> "list[int]":
        exempt_pids = self._exempt()
        return [
            pid for pid in _pids() if pid != 1 and pid not in exempt_pids and _is_user_process(pid)
        ]

    def _exempt(self) -> "frozenset[int]":
        return exempt_pids(_SPARED)


def exempt_pids(directory: str) -> "frozenset[int]":
    """Return the processes that files in `directory` list as needed until the very end.

    Anybody in the machine may put things there: what cannot be read as a list spares nobody.
    """
    words: list[bytes] = []
    for name in _names(directory):
        words += _read_list(f"{directory}/{name}").split()
    numbers = (parse_natural(word.decode("latin-1")) for word in words)
    return frozenset(number for number in numbers if number is not None)


def _read_list(path: str) -> bytes:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # a named pipe must not wait
    except OSError:
        return b""
    try:
        return os.read(fd, _LONGEST_LIST)
    except OSError:
        return b""
    finally:
        os.close(fd)


def _names(path: str) -> "list[str]":
    try:
        return os.listdir(path)
    except (FileNotFoundError, NotADirectoryError, ProcessLookupError):
        return []


def _pids() -> "list[int]":
    return [int(name) for name in _names("/proc") if name.isdigit()]


def _is_user_process(pid: int) -> bool:
    """Tell a live process from the kernel's own and from a zombie: only it has an executable.

    Its first thread may have ended, and the others live on.
    """
    threads = f"/proc/{pid}/task"
    return any(_has_executable(f"{threads}/{name}") for name in _names(threads))


def _has_executable(task: str) -> bool:
    try:
        os.readlink(f"{task}/exe")
    except OSError:  # ENOENT for all others, and for one that has just ended
        return False
    return True
