"""When the kernel started /init, in the words of its own log: for `debug` alone.

Source: the kernel's `Documentation/ABI/testing/dev-kmsg`.
"""

from initrd.guest.execute import format_duration

TYPE_CHECKING = False
if TYPE_CHECKING:
    from initrd.guest.kernel import Kernel
    from initrd.guest.log import Log

_STARTED = b"Run /init as init process"


def log_boot_time(began: float, kernel: "Kernel", log: "Log") -> None:
    """Say how long the kernel took until it started /init, and /init until `began`."""
    try:
        started = init_start_time(kernel.read_log())
    except OSError:  # a kernel without a log
        return
    if 0 < started <= began:
        log.progress(format_duration("the kernel", 0, started))
        log.progress(format_duration("start Python", started, began))


def init_start_time(records: "list[bytes]") -> float:
    """Return when /init was started, in seconds since the kernel was; 0: the log has lost it."""
    for record in records:
        head, _, text = record.partition(b";")
        if text.startswith(_STARTED):
            return int(head.split(b",")[2]) / 1e6
    return 0.0
