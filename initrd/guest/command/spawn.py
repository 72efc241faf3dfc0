"""Start the command: fork(2), and in the child the steps up to execve(2).

The child has a copy of PID 1's memory. Until execve it only makes system calls, and reports a
failure to the parent through a pipe, which is closed at the execve.
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
_ENTER_DIRECTORY = "enter the directory"
# Errors of chdir(2) that the root's content or the command's `cwd` causes, not the machine.
_REFUSAL_ERRORS = (errno.ENOENT, errno.ENOTDIR, errno.EACCES, errno.ELOOP, errno.ENAMETOOLONG)
_SHELL = b"/bin/sh"
# Errors after which a search through PATH continues with the next directory: glibc's execvp(3).
_CONTINUE_ERRORS = (
    errno.ENOENT,
    errno.ENOTDIR,
    errno.EACCES,
    errno.ENODEV,
    errno.ESTALE,
    errno.ETIMEDOUT,
)


class SpawnRequest(Record):
    """The data that the child needs, looked up before the fork."""

    argv: tuple[bytes, ...]
    environ: "dict[bytes, bytes]"
    cwd: bytes
    user: "User | None"  # None: the user of PID 1
    descriptors: tuple[int, ...]  # become 0, 1 and 2
    terminal: int = -1  # becomes the controlling terminal


class SpawnError(Exception):
    """A step of the child failed before the command ran: the step, the errno, and the path."""

    def __init__(self, step: str, number: int, path: bytes) -> None:
        super().__init__(step, number, path)
        self.step, self.number, self.path = step, number, path

    def is_refusal(self) -> bool:
        """Return whether the root lacks the command's working directory."""
        return self.step == _ENTER_DIRECTORY and self.number in _REFUSAL_ERRORS


def spawn(request: SpawnRequest) -> int:
    """Start the command; return its process ID. Raises SpawnError, and OSError of fork(2)."""
    reader, writer = os.pipe2(os.O_CLOEXEC)
    pid = os.fork()
    if pid == 0:
        _run_child(request, writer)
    os.close(writer)
    report = read_all(reader)
    os.close(reader)
    if not report:
        return pid
    os.waitpid(pid, 0)
    step, number, path = report.split(b"\0", 2)
    raise SpawnError(step.decode(), int(number), path)


def exit_status_of(failure: SpawnError) -> int:
    """Return the exit status that a shell has for a command that cannot be executed."""
    return 127 if failure.number == errno.ENOENT else 126


def explain_spawn_error(failure: SpawnError, request: SpawnRequest) -> str:
    """Return a message with the reason why the command cannot be executed."""
    name, path = decode(request.argv[0]) or "''", decode(failure.path)
    if not path.startswith("/"):
        path = f"{decode(request.cwd)}/{path}"
    why = os.strerror(failure.number)
    if b"/" not in failure.path:
        why = f"not found in PATH ({decode(request.environ.get(b'PATH', b''))})"
    elif failure.number in (errno.ENOENT, errno.EACCES, errno.ENOEXEC):
        from initrd.guest.execerror import explain_exec_error  # noqa: PLC0415 - only on failure

        why = explain_exec_error(path, OSError(failure.number, why))[0]
    return f"cannot run {name}: {why}"


def list_candidates(name: bytes, path: bytes) -> tuple[bytes, ...]:
    """Return the files to try for a command name, as execvp(3) does. `path` is PATH's value."""
    if not name:
        return ()
    if b"/" in name:
        return (name,)
    return tuple((folder or b".") + b"/" + name for folder in path.split(b":"))


def _run_child(request: SpawnRequest, report: int) -> "NoReturn":
    """Execute the command in the child, or write the error to the descriptor `report` and exit.

    Never returns: the caller's code belongs to PID 1.
    """
    step, path = "set up the session of", request.argv[0]
    try:
        _enter_session(request)
        if request.user:
            step, path = "become user", str(request.user.uid).encode()
            _become_user(request.user)
        step, path = _ENTER_DIRECTORY, request.cwd
        os.chdir(request.cwd)
        step, path = EXECUTE, request.argv[0]
        os.umask(0o022)
        _syscalls.reset_signals()
        _execute_first(request)
    except Exception as error:  # the parent reports errors of any type
        number = error.errno if isinstance(error, OSError) else None
        file = getattr(error, "filename", None)
        path = file if isinstance(file, bytes) else path
        os.write(report, b"%s\0%d\0%s" % (step.encode(), number or errno.EIO, path))
    finally:
        os._exit(125)


def _enter_session(request: SpawnRequest) -> None:
    os.setsid()
    if request.terminal >= 0:
        _syscalls.set_controlling_terminal(request.terminal)
    for fd, descriptor in enumerate(request.descriptors):
        os.dup2(descriptor, fd)


def _become_user(user: User) -> None:
    os.setgroups(user.groups)
    os.setgid(user.gid)
    os.setuid(user.uid)


def _execute_first(request: SpawnRequest) -> None:
    """Execute the first candidate that can be executed. Returns only by raising OSError."""
    failure: OSError = FileNotFoundError(errno.ENOENT, "")
    for file in list_candidates(request.argv[0], request.environ.get(b"PATH", b"")):
        try:
            _execute(file, request)
        except OSError as error:
            if error.errno not in _CONTINUE_ERRORS:
                raise
            # Report the first file that exists: its error explains more than a missing file's.
            if failure.filename is None and _exists(file):
                failure = error
    raise failure


def _exists(file: bytes) -> bool:
    try:
        os.lstat(file)
    except OSError:
        return False
    return True


def _execute(file: bytes, request: SpawnRequest) -> None:
    try:
        os.execve(file, request.argv, request.environ)
    except OSError as error:
        if error.errno != errno.ENOEXEC or _is_binary(file):
            raise
    # execvp(3): a text file without `#!` is a script for the shell.
    os.execve(_SHELL, [_SHELL, file, *request.argv[1:]], request.environ)


def _is_binary(file: bytes) -> bool:
    try:
        return b"\0" in read_file(file, 128)
    except OSError:  # executable but not readable: a shell could not read the file either
        return True
