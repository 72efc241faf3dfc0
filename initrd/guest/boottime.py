"""Log how long the kernel and the start of Python took, for `debug`.

The time at which the kernel started /init comes from the kernel log.

Source: the kernel's `Documentation/ABI/testing/dev-kmsg`.
"""

from initrd.guest.execute import format_duration

TYPE_CHECKING = False
if TYPE_CHECKING:
    from initrd.guest.kernel import Kernel
    from initrd.guest.log import Log

_INIT_MESSAGE = b"Run /init as init process"


def log_boot_time(python_started: float, kernel: "Kernel", log: "Log") -> None:
    """Log the time until the kernel started /init, and from there to `python_started` (seconds)."""
    try:
        init_started = init_start_time(kernel.read_log())
    except OSError:  # a kernel without a log
        return
    if 0 < init_started <= python_started:
        log.progress(format_duration("the kernel", 0, init_started))
        log.progress(format_duration("start Python", init_started, python_started))


def init_start_time(records: "list[bytes]") -> float:
    """Return the seconds from the kernel's start to that of /init; 0 when the log has no record."""
    for record in records:
        head, _, text = record.partition(b";")
        if text.startswith(_INIT_MESSAGE):
            return int(head.split(b",")[2]) / 1e6
    return 0.0
