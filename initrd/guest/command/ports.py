"""Find virtio-serial ports by name in sysfs, wait for late ones, and open them.

The device numbers of ports vary. The name of a port appears in sysfs a moment after the port.
Source: the kernel's `drivers/char/virtio_console.c`.
"""

from initrd.errors import reason
from initrd.guest.failure import BootError
from initrd.guest.wait import check_transport, wait_until

TYPE_CHECKING = False
if TYPE_CHECKING:
    from initrd.guest.kernel import Kernel

_CLASS_DIRECTORY = "/sys/class/virtio-ports"
_DRIVER_DIRECTORY = "/sys/bus/virtio/drivers/virtio_console"


def open_ports(names: "tuple[str, ...]", timeout: float, kernel: "Kernel") -> "dict[str, int]":
    """Return a non-blocking descriptor for each name; wait up to `timeout` seconds for all ports.

    Raises BootError that names the first port that is missing or cannot be opened.
    """
    devices: dict[str, str] = {}

    def find_all() -> bool:
        devices.update(_find_named_ports(kernel))
        return all(name in devices for name in names)

    if not find_all():
        _check_driver(names[0], kernel)
    if not wait_until(find_all, timeout, kernel):
        missing = next(name for name in names if name not in devices)
        raise BootError(f"cannot find port {missing}", *_explain_timeout(timeout, devices))
    return {name: _open_port(name, devices[name], kernel) for name in names}


def _find_named_ports(kernel: "Kernel") -> "dict[str, str]":
    """Return the device path of each port whose name is in sysfs, by name."""
    return {
        kernel.read(f"{_CLASS_DIRECTORY}/{device}/name").strip("\n"): f"/dev/{device}"
        for device in kernel.list_directory(_CLASS_DIRECTORY)
        if kernel.exists(f"{_CLASS_DIRECTORY}/{device}/name")
    }


def _open_port(name: str, device: str, kernel: "Kernel") -> int:
    try:
        return kernel.open_port(device)
    except OSError as error:
        raise BootError(f"cannot open port {name} ({device})", reason(error)) from error


def _check_driver(name: str, kernel: "Kernel") -> None:
    """Raise BootError if the kernel has no virtio transport or no virtio_console driver."""
    check_transport(f"find port {name}", kernel)
    if not kernel.exists(_DRIVER_DIRECTORY):
        raise BootError(
            f"cannot find port {name}",
            "this kernel has no virtio_console, and no module in the image brings it",
            "make the image with mkvirtinitrd --module virtio_console",
        )


def _explain_timeout(timeout: float, devices: "dict[str, str]") -> tuple[str, str]:
    """Return the reason and the hint for a port that did not appear."""
    found = f"the ports there are: {', '.join(sorted(devices))}" if devices else "there are none"
    return (
        f"no such port after {timeout:g} s; {found}",
        "check the virtserialport devices, or give them more time with initrd.timeout=",
    )
