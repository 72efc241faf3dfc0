"""Failed boots: the error type, the message for the user, and what /init does then."""

from initrd.errors import ExplainedError, reason
from initrd.guest.log import Log
from initrd.options import BootOptions
from initrd.record import Record
from initrd.text import decode

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

    from initrd.guest.kernel import Kernel

_DEBUG = "try: boot with 'debug' to see where"
_SHELL_ENVIRONMENT = (
    (b"HOME", b"/"),
    (b"TERM", b"linux"),
    (b"PATH", b"/usr/bin:/usr/sbin:/bin:/sbin"),
)


class BootError(ExplainedError):
    """The boot cannot go on."""


class CommandRefused(BootError):
    """The boot succeeded, but the command cannot run: the root lacks its user or its directory."""


class FailurePolicy(Record):
    """What /init does after a failed boot: `initrd.onfail`, and the root directory of the shell."""

    action: str = BootOptions.onfail
    shell_root: str = ""  # the mount point of the new root; empty: it is not mounted


def describe_failure(error: BaseException) -> str:
    """Return the message of any error for the user: one or two lines, never a traceback."""
    if isinstance(error, CommandRefused):
        return str(error)
    if isinstance(error, BootError):
        return f"boot failed: {error}"
    if isinstance(error, OSError) and error.filename:
        return f"boot failed: cannot use {_as_text(error.filename)}: {reason(error)}\n{_DEBUG}"
    return f"boot failed: {type(error).__name__}: {error}\n{_DEBUG}"


def _as_text(path: "str | bytes") -> str:
    return decode(path) if isinstance(path, bytes) else path


def give_up(kernel: "Kernel", log: Log, failure: FailurePolicy) -> "NoReturn":
    """Power off, panic or run a shell, as `initrd.onfail` selects. Never returns."""
    if failure.action == "shell":
        _run_shell(kernel, log, failure.shell_root)
    if failure.action == "panic":
        kernel.exit(1)
    log.fail("powering off")
    kernel.power_off()
    kernel.exit(1)  # the machine did not power off: the kernel panics
    raise AssertionError("PID 1 has exited")


def _run_shell(kernel: "Kernel", log: Log, root: str) -> None:
    if not root:
        log.fail("initrd.onfail=shell: no root is mounted to run a shell from")
        return
    log.fail("initrd.onfail=shell: running /bin/sh from the root; it is PID 1")
    try:
        kernel.chroot(root)
        kernel.chdir("/")
        kernel.reset_signals()
        kernel.execute("/bin/sh", [b"sh"], dict(_SHELL_ENVIRONMENT))
    except OSError as error:
        log.fail(f"cannot run /bin/sh from the root: {reason(error)}")
