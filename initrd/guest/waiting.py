"""Waits for what is not there yet: devices are probed while `/init` runs already.

`mount(2)` has no way to wait for a virtiofs tag, and the kernel tells of new ones only from 6.9 on.
So this tries again, first after a millisecond and then ever more slowly, until a deadline.
"""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from initrd.guest.kernel import Kernel

_FIRST_PAUSE, _LONGEST_PAUSE = 0.001, 0.05  # seconds


def wait_until(attempt: "Callable[[], bool]", seconds: float, kernel: "Kernel") -> bool:
    """Call `attempt` until it returns True or `seconds` are over. It is called at least once."""
    deadline, pause = kernel.monotonic() + seconds, _FIRST_PAUSE
    while not attempt():
        left = deadline - kernel.monotonic()
        if left <= 0:
            return False
        kernel.sleep(min(pause, left))
        pause = min(pause * 2, _LONGEST_PAUSE)
    return True
