"""Waits for what is not there yet: devices are probed while `/init` runs already.

`mount(2)` has no way to wait for a virtiofs tag, and the kernel tells of new ones only from 6.9 on.
So this tries again, first after a millisecond and then ever more slowly, until a deadline.
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
    """Call `attempt` until it returns True or `seconds` are over. It is called at least once."""
    deadline, pause = kernel.monotonic() + seconds, _FIRST_PAUSE
    while not attempt():
        left = deadline - kernel.monotonic()
        if left <= 0:
            return False
        kernel.sleep(min(pause, left))
        pause = min(pause * 2, _LONGEST_PAUSE)
    return True


def check_transport(what: str, kernel: "Kernel") -> None:
    """Raise BootError, "cannot WHAT", where it is of no use to wait for a virtio device."""
    if kernel.exists(_PCI_DRIVER):
        return
    if kernel.exists(_MMIO_DRIVER) and not _has_pci_devices(kernel):
        return
    raise BootError(
        f"cannot {what}",
        "no virtio transport: no module virtio_pci in the image, and the kernel has none built in",
        "make the image with mkvirtinitrd --module virtio_pci",
    )


def _has_pci_devices(kernel: "Kernel") -> bool:
    """Tell whether there are virtio devices on the PCI bus."""
    return any(
        kernel.read(f"{_PCI_DEVICES}/{device}/vendor").strip() == _VIRTIO_VENDOR
        for device in kernel.list_directory(_PCI_DEVICES)
    )
