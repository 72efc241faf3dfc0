"""Write what a user asked for to where the user asked for it."""

import os
import stat
import sys

from initrd.host.atomic import replace_file
from initrd.host.failure import HostError, reason


def save(content: bytes, output: str) -> None:
    """Write `content` to the file `output`, or to standard output for `-`.

    A symbolic link is followed; what was there stays until its successor is complete. Raises
    HostError for what is neither a regular file nor missing, and when writing fails.
    """
    if output == "-":
        _print(content)
        return
    target = os.path.realpath(output)
    _check(output, target)
    try:
        replace_file(target, content)
    except OSError as error:
        raise HostError(f"cannot write {output}", reason(error)) from error


def check(output: str) -> None:
    """Raise HostError when it can be told already that `save` will fail."""
    if output == "-":
        return
    target = os.path.realpath(output)
    _check(output, target)
    folder = os.path.dirname(target)
    if not os.access(folder, os.W_OK | os.X_OK):
        why = "it is not for this user to write to" if os.path.isdir(folder) else "it is not there"
        raise HostError(f"cannot write {output}", f"the directory {folder}: {why}")


def _print(content: bytes) -> None:
    if sys.stdout.isatty():
        raise HostError("cannot write to standard output", "it is a terminal", "a file, or a pipe")
    try:
        sys.stdout.buffer.write(content)
        sys.stdout.buffer.flush()
    except OSError as error:
        raise HostError("cannot write to standard output", reason(error)) from error


def _check(output: str, target: str) -> None:
    """Refuse to put a file in the place of a directory or a device (as root, of /dev/null)."""
    try:
        fitting = stat.S_ISREG(os.stat(target).st_mode)
    except FileNotFoundError:
        fitting = True
    except OSError as error:
        raise HostError(f"cannot write {output}", reason(error)) from error
    if not fitting or output.endswith("/"):
        raise HostError(
            f"cannot write {output}", "it is no regular file", "the name of a file, or -"
        )
