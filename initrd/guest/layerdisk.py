"""Finds the device of the overlay's writable layer, and checks it before anything is mounted."""

from initrd.guest.block import find_device
from initrd.guest.console import Log
from initrd.guest.disks import is_write_protected, look_at
from initrd.guest.failure import BootError, reason

TYPE_CHECKING = False
if TYPE_CHECKING:
    from initrd.guest.kernel import Kernel


def find_layer(name: str, timeout: float, kernel: "Kernel", log: Log) -> str:
    """Return the path of the device `/dev/NAME`, waiting up to `timeout` seconds for it.

    Raises BootError unless it is there in time, can be written to and holds ext4.
    """
    device = find_device(f"/dev/{name}", timeout, kernel, log)
    if is_write_protected(device, kernel):
        raise _unfit(device, "the device is write-protected", "attach it writable")
    try:
        holds = look_at(device, kernel)
    except OSError as error:
        raise _unfit(device, reason(error), "") from error
    if holds is None or holds.fstype != "ext4":
        found = f"it holds {holds}" if holds else "no file system is recognized on it"
        raise _unfit(device, f"{found}, not ext4", "make it with mkfs.ext4, or name another device")
    return device


def _unfit(device: str, why: str, hint: str) -> BootError:
    return BootError(f"cannot keep the overlay on {device}", why, hint)
