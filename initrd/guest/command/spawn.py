"""Start the command: the files to try, and the reason of a failure.

The child process is started and executes the command in C, `spawn` in `initrd/freeze/_syscalls.c`:
a child that runs Python code would need a copy of PID 1's memory.
"""

import errno
import posix as os

from initrd.guest import _syscalls
from initrd.guest.command.users import User
from initrd.record import Record
from initrd.text import decode

EXECUTE = "execute"
_ENTER_DIRECTORY = "enter the directory"
# Errors of chdir(2) that the root's content or the command's `cwd` causes, not the machine.
_REFUSAL_ERRORS = (errno.ENOENT, errno.ENOTDIR, errno.EACCES, errno.ELOOP, errno.ENAMETOOLONG)
# The child's steps, in the order of `enum step` in initrd/freeze/_syscalls.c.
_STEPS = ("set up the session of", "become user", _ENTER_DIRECTORY, EXECUTE)
_SHELL = b"/bin/sh"  # executes scripts that have no `#!`; the shell of users without one


class SpawnRequest(Record):
    """The data that the child needs, looked up before it is started."""

    argv: tuple[bytes, ...]
    environ: "dict[bytes, bytes]"
    cwd: bytes
    user: "User | None"  # None: the user of PID 1
    descriptors: tuple[int, ...]  # become 0, 1 and 2
    terminal: int = -1  # becomes the controlling terminal
    program: bytes = b""  # file to execute; empty: the one that argv[0] names


class SpawnError(Exception):
    """A step of the child failed before the command ran: the step, the errno, and the path."""

    def __init__(self, step: str, number: int, path: bytes) -> None:
        super().__init__(step, number, path)
        self.step, self.number, self.path = step, number, path

    def is_refusal(self) -> bool:
        """Return whether the root lacks the command's working directory."""
        return self.step == _ENTER_DIRECTORY and self.number in _REFUSAL_ERRORS


def spawn(request: SpawnRequest) -> int:
    """Start the command; return its process ID. Raises SpawnError, and OSError of vfork(2)."""
    name, user = request.program or request.argv[0], request.user
    pid, step, number, file = _syscalls.spawn(
        list_candidates(name, request.environ.get(b"PATH", b"")),
        (_SHELL, *request.argv),
        tuple(b"%s=%s" % variable for variable in request.environ.items()),
        request.cwd,
        (user.uid, user.gid, user.groups) if user else None,
        request.descriptors,
        request.terminal,
    )
    if not number:
        return pid
    os.waitpid(pid, 0)
    subjects = (name, b"%d" % user.uid if user else b"", request.cwd, name)  # of the steps
    raise SpawnError(_STEPS[step], number, file or subjects[step])


def exit_status_of(failure: SpawnError) -> int:
    """Return the exit status that a shell has for a command that cannot be executed."""
    return 127 if failure.number == errno.ENOENT else 126


def explain_spawn_error(failure: SpawnError, request: SpawnRequest) -> str:
    """Return a message with the reason why the command cannot be executed."""
    name = decode(request.program or request.argv[0]) or "''"
    path = decode(failure.path)
    if not path.startswith("/"):
        path = f"{decode(request.cwd)}/{path}"
    why = os.strerror(failure.number)
    if b"/" not in failure.path:
        why = f"not found in PATH ({decode(request.environ.get(b'PATH', b''))})"
    elif failure.number in (errno.ENOENT, errno.EACCES, errno.ENOEXEC):
        from initrd.guest.execerror import explain_exec_error  # noqa: PLC0415 - only on failure

        why = explain_exec_error(path, OSError(failure.number, why))[0]
    return f"cannot run {name}: {why}"


def find_shell(shell: bytes) -> bytes:
    """Return a user's shell, the field of passwd(5), if there is such a program; else /bin/sh."""
    return shell if shell.startswith(b"/") and os.access(shell, os.X_OK) else _SHELL


def list_candidates(name: bytes, path: bytes) -> tuple[bytes, ...]:
    """Return the files to try for a command name, as execvp(3) does. `path` is PATH's value."""
    if not name:
        return ()
    if b"/" in name:
        return (name,)
    return tuple((folder or b".") + b"/" + name for folder in path.split(b":"))
