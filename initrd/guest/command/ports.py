"""Finds virtio-serial ports by their names, waits for those that are late, and opens them.

Their numbers vary; their names are in sysfs, a moment after the ports themselves.
Source: the kernel's `drivers/char/virtio_console.c`.
"""

from initrd.guest.failure import BootError, reason
from initrd.guest.wait import check_transport, wait_until

TYPE_CHECKING = False
if TYPE_CHECKING:
    from initrd.guest.kernel import Kernel

_CLASS = "/sys/class/virtio-ports"
_DRIVER = "/sys/bus/virtio/drivers/virtio_console"


def open_ports(names: "tuple[str, ...]", timeout: float, kernel: "Kernel") -> "dict[str, int]":
    """Return a non-blocking descriptor for each name, waiting up to `timeout` seconds for all.

    Raises BootError that names the one that never came, or cannot be opened.
    """
    devices: dict[str, str] = {}

    def all_there() -> bool:
        devices.update(_named_ports(kernel))
        return all(name in devices for name in names)

    if not all_there():
        _check_possible(names[0], kernel)
    if not wait_until(all_there, timeout, kernel):
        missing = next(name for name in names if name not in devices)
        raise BootError(f"cannot find port {missing}", *_why(timeout, devices))
    return {name: _open(name, devices[name], kernel) for name in names}


def _named_ports(kernel: "Kernel") -> "dict[str, str]":
    """Return the device of every port that has a name already."""
    return {
        kernel.read(f"{_CLASS}/{device}/name").strip("\n"): f"/dev/{device}"
        for device in kernel.list_directory(_CLASS)
        if kernel.exists(f"{_CLASS}/{device}/name")
    }


def _open(name: str, device: str, kernel: "Kernel") -> int:
    try:
        return kernel.open_port(device)
    except OSError as error:
        raise BootError(f"cannot open port {name} ({device})", reason(error)) from error


def _check_possible(name: str, kernel: "Kernel") -> None:
    """Fail at once where no port can ever appear."""
    check_transport(f"find port {name}", kernel)
    if not kernel.exists(_DRIVER):
        raise BootError(
            f"cannot find port {name}",
            "this kernel has no virtio_console, and no module in the image brings it",
            "make the image with mkvirtinitrd --module virtio_console",
        )


def _why(timeout: float, devices: "dict[str, str]") -> tuple[str, str]:
    there = f"the ports there are: {', '.join(sorted(devices))}" if devices else "there are none"
    return (
        f"no such port after {timeout:g} s; {there}",
        "check the virtserialport devices, or give them more time with initrd.timeout=",
    )
