"""Apply the steps of a plan: log each one with its duration, and turn OSError into BootError."""

from initrd.errors import reason
from initrd.guest.failure import BootError
from initrd.guest.log import Log
from initrd.guest.steps import Step

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from initrd.guest.kernel import Kernel


def execute(steps: "Iterable[Step]", kernel: "Kernel", log: Log) -> None:
    """Apply steps in order. Raises BootError at the first that fails."""
    for step in steps:
        timed(step, lambda step=step: _apply(step, kernel), kernel, log)  # type: ignore[misc]


def timed(subject: object, action: "Callable[[], None]", kernel: "Kernel", log: Log) -> None:
    """Call `action`; with `debug`, log `subject` before it, and after it with the duration.

    `subject` is text or a step. When a boot hangs, the last line logged names the step.
    """
    if log.verbose:
        log.progress(f"{subject} ...")
    start = kernel.monotonic()
    action()
    if log.verbose is not False:
        log.progress(format_duration(subject, start, kernel.monotonic()))


def format_duration(subject: object, start: float, end: float) -> str:
    """Return a log line about `subject`; `start` and `end` are seconds since the kernel started."""
    return f"{subject} [{(end - start) * 1000:.1f} ms, at {start:.4f} s]"


def _apply(step: Step, kernel: "Kernel") -> None:
    try:
        step.apply(kernel)
    except OSError as error:
        raise BootError(f"cannot {step.describe()}", reason(error), step.hint(error)) from error
