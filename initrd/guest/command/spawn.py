"""Starts the command: fork(2), and in the child all that leads up to execve(2).

Between fork and execve there is one process of PID 1's memory too many: the child does nothing but
system calls, and tells the parent through a pipe what failed. The pipe closes at the execve.
"""

import errno
import posix as os

from initrd.guest import _syscalls
from initrd.guest.command.users import User
from initrd.guest.kernel import read_all, read_file
from initrd.record import Record
from initrd.text import decode

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

EXECUTE = "execute"
_ENTER = "enter the directory"
_NOT_THERE = (errno.ENOENT, errno.ENOTDIR, errno.EACCES, errno.ELOOP, errno.ENAMETOOLONG)
_SHELL = b"/bin/sh"
# What lets a search through PATH go on with the next directory, as glibc's execvp(3) does.
_SEARCH_ON = (
    errno.ENOENT,
    errno.ENOTDIR,
    errno.EACCES,
    errno.ENODEV,
    errno.ESTALE,
    errno.ETIMEDOUT,
)


class SpawnRequest(Record):
    """Everything the child needs to know, looked up before there is a child."""

    argv: tuple[bytes, ...]
    environ: "dict[bytes, bytes]"
    cwd: bytes
    user: "User | None"  # None: as PID 1
    descriptors: tuple[int, ...]  # become 0, 1 and 2
    terminal: int = -1  # becomes the controlling terminal


class SpawnError(Exception):
    """The child did not get as far as the command: what failed, with which errno, on what."""

    def __init__(self, step: str, number: int, path: bytes) -> None:
        super().__init__(step, number, path)
        self.step, self.number, self.path = step, number, path

    def is_refusal(self) -> bool:
        """Tell whether the root just does not have the directory that was asked for."""
        return self.step == _ENTER and self.number in _NOT_THERE


def spawn(what: SpawnRequest) -> int:
    """Start the command; return its process. Raises NotStarted, or OSError where fork(2) does."""
    reader, writer = os.pipe2(os.O_CLOEXEC)
    pid = os.fork()
    if pid == 0:
        _become(what, writer)
    os.close(writer)
    report = read_all(reader)
    os.close(reader)
    if not report:
        return pid
    os.waitpid(pid, 0)
    step, number, path = report.split(b"\0", 2)
    raise SpawnError(step.decode(), int(number), path)


def exit_status_of(failure: SpawnError) -> int:
    """Return the exit status for a command that could not be executed, as a shell has it."""
    return 127 if failure.number == errno.ENOENT else 126


def explain_spawn_error(failure: SpawnError, what: SpawnRequest) -> str:
    """Say why the command could not be executed."""
    name, path = decode(what.argv[0]) or "''", decode(failure.path)
    if not path.startswith("/"):
        path = f"{decode(what.cwd)}/{path}"
    why = os.strerror(failure.number)
    if b"/" not in failure.path:
        why = f"not found in PATH ({decode(what.environ.get(b'PATH', b''))})"
    elif failure.number in (errno.ENOENT, errno.EACCES, errno.ENOEXEC):
        from initrd.guest.execerror import explain_exec_error  # noqa: PLC0415 - only on failure

        why = explain_exec_error(path, OSError(failure.number, why))[0]
    return f"cannot run {name}: {why}"


def candidates(name: bytes, path: bytes) -> tuple[bytes, ...]:
    """Return the files to try for a command's name, as execvp(3) would. `path` is PATH's value."""
    if not name:
        return ()
    if b"/" in name:
        return (name,)
    return tuple((folder or b".") + b"/" + name for folder in path.split(b":"))


def _become(what: SpawnRequest, report: int) -> "NoReturn":
    """Become the command. Ends the process, whatever happens: it must not return into PID 1's."""
    step, path = "set up the session of", what.argv[0]
    try:
        _enter_session(what)
        if what.user:
            step, path = "become user", str(what.user.uid).encode()
            _become_user(what.user)
        step, path = _ENTER, what.cwd
        os.chdir(what.cwd)
        step, path = EXECUTE, what.argv[0]
        os.umask(0o022)
        _syscalls.reset_signals()
        _search(what)
    except Exception as error:  # whatever it is, the parent is to be told
        number = error.errno if isinstance(error, OSError) else None
        file = getattr(error, "filename", None)
        path = file if isinstance(file, bytes) else path
        os.write(report, b"%s\0%d\0%s" % (step.encode(), number or errno.EIO, path))
    finally:
        os._exit(125)


def _enter_session(what: SpawnRequest) -> None:
    os.setsid()
    if what.terminal >= 0:
        _syscalls.set_controlling_terminal(what.terminal)
    for fd, descriptor in enumerate(what.descriptors):
        os.dup2(descriptor, fd)


def _become_user(user: User) -> None:
    os.setgroups(user.groups)
    os.setgid(user.gid)
    os.setuid(user.uid)


def _search(what: SpawnRequest) -> None:
    """Execute the first candidate that can be. Returns by raising OSError only."""
    failure: OSError = FileNotFoundError(errno.ENOENT, "")
    for file in candidates(what.argv[0], what.environ.get(b"PATH", b"")):
        try:
            _execute(file, what)
        except OSError as error:
            if error.errno not in _SEARCH_ON:
                raise
            # A file that is there and cannot be executed says more than all that are not there.
            if failure.filename is None and _exists(file):
                failure = error
    raise failure


def _exists(file: bytes) -> bool:
    try:
        os.lstat(file)
    except OSError:
        return False
    return True


def _execute(file: bytes, what: SpawnRequest) -> None:
    try:
        os.execve(file, what.argv, what.environ)
    except OSError as error:
        if error.errno != errno.ENOEXEC or _is_binary(file):
            raise
    # execvp(3): a text without `#!` is a script for the shell.
    os.execve(_SHELL, [_SHELL, file, *what.argv[1:]], what.environ)


def _is_binary(file: bytes) -> bool:
    try:
        return b"\0" in read_file(file, 128)
    except OSError:  # it may be executed and not read: then no shell could read it either
        return True
