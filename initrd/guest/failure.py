"""A boot that cannot go on: the error, what the user reads of it, what the machine then does."""

from initrd.errors import ExplainedError, reason
from initrd.guest.log import Log
from initrd.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

    from initrd.guest.kernel import Kernel


_SHELL_ENVIRONMENT = (
    (b"HOME", b"/"),
    (b"TERM", b"linux"),
    (b"PATH", b"/usr/bin:/usr/sbin:/bin:/sbin"),
)


class BootError(ExplainedError):
    """The boot cannot go on."""


class CommandRefused(BootError):
    """The root lacks what the command was to have: its user, its directory. The boot went well."""


class FailurePolicy(Record):
    """What a failed boot does, and whether there is a root to run a shell from."""

    action: str = "poweroff"
    shell_root: str = ""  # where the new root is mounted; empty: it is not


def describe_failure(error: BaseException) -> str:
    """Return what the user reads of any error: one or two lines, never a traceback."""
    if isinstance(error, CommandRefused):
        return str(error)
    if isinstance(error, BootError):
        return f"boot failed: {error}"
    return f"boot failed: {type(error).__name__}: {error}\ntry: boot with 'debug' to see where"


def give_up(kernel: "Kernel", log: Log, failure: FailurePolicy) -> "NoReturn":
    """Do what `initrd.onfail` asks for. Never returns."""
    if failure.action == "shell":
        _run_shell(kernel, log, failure.shell_root)
    if failure.action == "panic":
        kernel.exit(1)
    log.fail("powering off")
    kernel.power_off()
    kernel.exit(1)  # a machine that cannot power off panics
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
