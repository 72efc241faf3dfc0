"""Wait for devices, which the kernel may probe while `/init` runs.

mount(2) cannot wait for a virtiofs tag, and the kernel reports new tags only from 6.9 on. So an
attempt is repeated until a deadline, with pauses that double from 1 ms to 50 ms.
"""

from initrd.guest.failure import BootError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from initrd.guest.kernel import Kernel

_FIRST_PAUSE, _LONGEST_PAUSE = 0.001, 0.05  # seconds
_PCI_DRIVER = "/sys/bus/pci/drivers/virtio-pci"
_MMIO_DRIVER = "/sys/bus/platform/drivers/virtio-mmio"
_PCI_DEVICES, _VIRTIO_VENDOR = "/sys/bus/pci/devices", "0x1af4"


def wait_until(attempt: "Callable[[], bool]", seconds: float, kernel: "Kernel") -> bool:
    """Call `attempt`, at least once, until it returns True; return False after `seconds`."""
    deadline, pause = kernel.monotonic() + seconds, _FIRST_PAUSE
    while not attempt():
        remaining = deadline - kernel.monotonic()
        if remaining <= 0:
            return False
        kernel.sleep(min(pause, remaining))
        pause = min(pause * 2, _LONGEST_PAUSE)
    return True


def check_transport(action: str, kernel: "Kernel") -> None:
    """Raise BootError, "cannot ACTION", when no driver can find the virtio devices."""
    if kernel.exists(_PCI_DRIVER):
        return
    if kernel.exists(_MMIO_DRIVER) and not _has_pci_devices(kernel):
        return
    raise BootError(
        f"cannot {action}",
        "no virtio transport: no module virtio_pci in the image, and the kernel has none built in",
        "make the image with mkvirtinitrd --module virtio_pci",
    )


def _has_pci_devices(kernel: "Kernel") -> bool:
    """Return whether there are virtio devices on the PCI bus."""
    return any(
        kernel.read(f"{_PCI_DEVICES}/{device}/vendor").strip() == _VIRTIO_VENDOR
        for device in kernel.list_directory(_PCI_DEVICES)
    )
