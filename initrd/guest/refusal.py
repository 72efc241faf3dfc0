"""Tells whether this process may act as `/init`, which mounts and deletes."""

from initrd.guest.switchroot import is_ram_filesystem

TYPE_CHECKING = False
if TYPE_CHECKING:
    from initrd.guest.kernel import Kernel


def refusal(kernel: "Kernel") -> str:
    """Return why this process must not act as `/init`; nothing when it may.

    For a start from the checkout: in /init the launcher has asked this, and more, before.
    """
    if kernel.pid() != 1:
        return "this is not PID 1"
    if kernel.exists("/proc/self"):
        return "/proc is mounted already"  # a container: the kernel itself mounts nothing
    root = kernel.open_directory("/")
    try:
        return "" if is_ram_filesystem(root, kernel) else "/ is not an initramfs"
    finally:
        kernel.close(root)
