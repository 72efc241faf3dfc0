"""The last handler of exceptions: one sentence for the user, and the traceback in a file.

Errors that have a reason outside of this program are HostError. Any other exception is a mistake of
the program, which a user can only report.
"""

import os
from contextlib import contextmanager

from initrd.host.machine.locate import state_directory
from initrd.host.system.hosterror import HostError
from initrd.host.system.log_file import save_log
from initrd.host.system.loop import Cancelled
from initrd.host.system.terminal import MessageWriter

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_MAX_TEXT = 500  # characters of an exception's text that are shown


class Mistake(HostError):
    """An exception that no code expects."""


@contextmanager
def explain_mistakes(program: str, environment: "Mapping[str, str]") -> "Iterator[None]":
    """Raise a Mistake in place of an exception that is no HostError; keep the traceback."""
    try:
        yield
    except (HostError, Cancelled):
        raise
    except Exception as error:
        raise explain_mistake(program, error, environment) from error


def explain_mistake(program: str, error: Exception, environment: "Mapping[str, str]") -> Mistake:
    """Return the error of `program` for an exception, after saving its traceback.

    A traceback that cannot be saved goes to standard error.
    """
    text = " ".join(str(error).split())[:_MAX_TEXT]
    why = f"{type(error).__name__}: {text}" if text else type(error).__name__
    where = _keep_traceback(error, environment)
    return Mistake(f"a mistake of {program}'s own", f"{why} ({where})")


def _keep_traceback(error: Exception, environment: "Mapping[str, str]") -> str:
    """Save a traceback, or print it; return where it is."""
    from traceback import format_exception  # noqa: PLC0415 - seldom needed

    content = "".join(format_exception(error)).encode(errors="backslashreplace")
    try:
        folder = os.path.join(state_directory(environment), "tracebacks")
        return f"the traceback is kept in {save_log(folder, content.decode())}"
    except (HostError, OSError, ValueError) as failure:  # ValueError: a path with a NUL byte
        MessageWriter().print_output_of(content)
        why = failure.why if isinstance(failure, HostError) else str(failure)
        return f"the traceback is above, because it cannot be kept: {why}"
