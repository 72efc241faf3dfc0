"""Carries out plans: says each step, does it, takes its time, and turns a failure into words."""

from initrd.guest.failure import BootError, reason
from initrd.guest.log import Log
from initrd.guest.steps import Step

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from initrd.guest.kernel import Kernel


def execute(steps: "Iterable[Step]", kernel: "Kernel", log: Log) -> None:
    """Apply steps in order. Raises BootError for the first that fails."""
    for step in steps:
        timed(step, lambda step=step: _apply(step, kernel), kernel, log)  # type: ignore[misc]


def timed(what: object, action: "Callable[[], None]", kernel: "Kernel", log: Log) -> None:
    """Do something; with `debug`, say it before, and again with its duration and its time after.

    `what` is text or a step. A step that hangs is the last one that was said.
    """
    if log.verbose:
        log.progress(f"{what} ...")
    start = kernel.monotonic()
    action()
    if log.verbose is not False:
        log.progress(format_duration(what, start, kernel.monotonic()))


def format_duration(what: object, start: float, end: float) -> str:
    """Return the line that tells when something was done; times in seconds since the start."""
    return f"{what} [{(end - start) * 1000:.1f} ms, at {start:.4f} s]"


def _apply(step: Step, kernel: "Kernel") -> None:
    try:
        step.apply(kernel)
    except OSError as error:
        raise BootError(f"cannot {step.describe()}", reason(error), step.hint(error)) from error
