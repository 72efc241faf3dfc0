"""Write the files that a user names, atomically.

`save_file` writes a temporary file and renames it, so that a reader never finds a file that is half
written. Files that chrootvm keeps for itself are not written here: `PrivateFolder` does that.
"""

import os
import stat
import sys
from contextlib import contextmanager

from initrd.errors import reason
from initrd.host.system.hosterror import HostError
from initrd.record import Record
from initrd.text import parse_natural

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_STANDARD = {"/dev/stdin": 0, "/dev/stdout": 1, "/dev/stderr": 2}


def replace_file(path: str, content: bytes, mode: int = 0o666) -> None:
    """Replace the file `path` by one with `content`, atomically.

    Several processes may do so at the same time. Raises OSError. No temporary file is left when
    writing fails or is interrupted by Ctrl-C.
    """
    temporary = os.path.join(os.path.dirname(path), f".{os.urandom(8).hex()}.tmp")
    try:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        with open(os.open(temporary, flags, mode), "wb") as file:
            file.write(content)
        os.replace(temporary, path)
    except BaseException:
        _remove_if_exists(temporary)
        raise


class OpenFile(Record):
    """A file that a child process reads: by its path, or by a descriptor that it inherits."""

    path: str
    descriptor: int = -1  # -1: the child process opens the path

    @property
    def is_open(self) -> bool:
        """Whether there is a descriptor of it."""
        return self.descriptor >= 0

    @property
    def inherited_path(self) -> str:
        """The path by which a process that has inherited the descriptor opens the file."""
        return f"/proc/self/fd/{self.descriptor}" if self.is_open else self.path


def name_open_file(descriptor: int, unnamed: str) -> OpenFile:
    """Return the file that is open as `descriptor`; its path is `unnamed` where it has none."""
    path = os.readlink(f"/proc/self/fd/{descriptor}")
    return OpenFile(path if os.path.exists(path) else unnamed, descriptor)


def save_file(content: bytes, output: str) -> None:
    """Write `content` to the file `output`, or to standard output for `-`.

    A symbolic link is followed; an existing file stays until its successor is complete. Raises
    HostError when `output` exists and is no regular file, and when writing fails.
    """
    if output == "-":
        if sys.stdout and sys.stdout.isatty():
            why = "it is a terminal"
            raise HostError("cannot write to standard output", why, "a file, or a pipe")
        write_stdout([content])
        return
    target = os.path.realpath(output)
    _check_replaceable(output, target)
    try:
        replace_file(target, content)
    except OSError as error:
        raise HostError(f"cannot write {output}", reason(error)) from error


def write_output(content: bytes, output: str) -> None:
    """Write `content` to what a shell's `>` can write to; a regular file as `save_file` does.

    That is a named pipe, a character device, or the name of an open descriptor, such as /dev/stdout
    and /dev/fd/3. A named pipe waits for its reader. Raises HostError.
    """
    number = _descriptor_of(output)
    if number == _STANDARD["/dev/stdout"]:
        save_file(content, "-")
        return
    if number is None and not _is_stream(output):
        save_file(content, output)
        return
    try:
        opened = os.open(output, os.O_WRONLY | os.O_CLOEXEC) if number is None else os.dup(number)
        with open(opened, "wb") as stream:
            if stream.isatty():
                raise HostError(f"cannot write {output}", "it is a terminal", "a file, or a pipe")
            stream.write(content)
    except OverflowError:
        raise HostError(f"cannot write {output}", "there are no such descriptors") from None
    except OSError as error:
        raise HostError(f"cannot write {output}", reason(error)) from error


def _descriptor_of(path: str) -> int | None:
    """Return the number of the open descriptor that `path` is a name of."""
    for folder in ("/dev/fd/", "/proc/self/fd/"):
        if path.startswith(folder):
            return parse_natural(path.removeprefix(folder))
    return _STANDARD.get(path)


def _is_stream(path: str) -> bool:
    try:
        mode = os.stat(path).st_mode
    except OSError:  # a new file, or one that `save_file` explains
        return False
    return stat.S_ISFIFO(mode) or stat.S_ISCHR(mode)


def check_writable(output: str) -> None:
    """Raise HostError when it is already certain that `save_file` will fail."""
    if output == "-":
        return
    target = os.path.realpath(output)
    _check_replaceable(output, target)
    folder = os.path.dirname(target)
    if not os.access(folder, os.W_OK | os.X_OK):
        why = "it is not for this user to write to" if os.path.isdir(folder) else "it is not there"
        raise HostError(f"cannot write {output}", f"the directory {folder}: {why}")


def _remove_if_exists(path: str) -> None:
    try:
        os.unlink(path)
    except FileNotFoundError:  # creating the file had failed
        pass


def write_stdout(pieces: "Iterable[bytes]") -> None:
    """Write to standard output. Raises HostError."""
    if sys.stdout is None:  # Python found it closed; a file opened since may have its number
        raise HostError("cannot write to standard output", "it is closed")
    for piece in pieces:
        with _explain_stdout():
            sys.stdout.buffer.write(piece)
    flush_stdout()


def flush_stdout() -> None:
    """Write what is buffered for standard output. Raises HostError."""
    if sys.stdout:
        with _explain_stdout():
            sys.stdout.flush()


@contextmanager
def _explain_stdout() -> "Iterator[None]":
    """Raise a HostError when standard output takes no more. Python would fail again at its end."""
    try:
        yield
    except OSError as error:
        with open(os.devnull, "wb") as null:
            os.dup2(null.fileno(), sys.stdout.fileno())
        raise HostError("cannot write to standard output", reason(error)) from error


def _check_replaceable(output: str, target: str) -> None:
    """Raise HostError unless `target` is a regular file or missing.

    Without this check root would replace a device such as /dev/null by a file.
    """
    try:
        replaceable = stat.S_ISREG(os.stat(target).st_mode)
    except FileNotFoundError:
        replaceable = True
    except OSError as error:
        raise HostError(f"cannot write {output}", reason(error)) from error
    if not replaceable or output.endswith("/"):
        raise HostError(
            f"cannot write {output}", "it is no regular file", "the name of a file, or -"
        )
