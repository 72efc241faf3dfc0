"""How virtio devices are reached: without a driver for that, none of them ever appears."""

from initrd.guest.failure import BootError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from initrd.guest.kernel import Kernel

_PCI_DRIVER = "/sys/bus/pci/drivers/virtio-pci"
_MMIO_DRIVER = "/sys/bus/platform/drivers/virtio-mmio"
_PCI_DEVICES, _VIRTIO_VENDOR = "/sys/bus/pci/devices", "0x1af4"


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
