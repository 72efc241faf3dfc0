"""Execute the target with the signals and the environment that the kernel gives to init."""

import posix

from initrd.guest.execute import format_duration
from initrd.guest.failure import BootError
from initrd.options import ENVIRONMENT_WORDS
from initrd.text import encode

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

    from initrd.guest.kernel import Kernel
    from initrd.guest.log import Log


def target_environment(environ: "dict[bytes, bytes]") -> "dict[bytes, bytes]":
    """Return the environment that the kernel would give the target: `environ` without the options.

    The kernel puts unknown options into the environment of /init. The launcher and the interpreter
    add no variables, so all others come from the kernel or its command line.
    """
    removed = {word.replace("-", "_").encode() for word in ENVIRONMENT_WORDS}
    return {
        name: value for name, value in environ.items() if name.replace(b"-", b"_") not in removed
    }


def execute_target(path: str, arguments: "list[str]", kernel: "Kernel", log: "Log") -> "NoReturn":
    """Execute the target as PID 1: execve(2). Raises BootError."""
    if log.verbose:
        now = kernel.monotonic()
        log.progress(format_duration(f"execute {path}", now, now))
    kernel.reset_signals()
    argv = [encode(path), *(encode(word) for word in arguments)]
    try:
        kernel.execute(path, argv, target_environment(dict(posix.environ)))
    except OSError as error:
        from initrd.guest.execerror import explain_exec_error  # noqa: PLC0415 - only for a failed boot

        raise BootError(
            f"cannot execute the target {path}", *explain_exec_error(path, error)
        ) from error
    raise AssertionError("execve(2) returned")
