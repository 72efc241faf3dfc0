"""Find the block devices that have no driver, to explain why a disk does not appear.

Sources: the kernel's Documentation/ABI/testing/sysfs-bus-pci, include/linux/pci_ids.h,
include/uapi/linux/virtio_ids.h and include/scsi/scsi_proto.h.
"""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from initrd.guest.kernel import Kernel

# A bus, the attribute that tells the kind of a device, and what it begins with for each module.
_KINDS = (
    ("pci", "vendor", {"0x1af4": "virtio_pci"}),
    ("pci", "class", {"0x0101": "ata_piix", "0x0106": "ahci", "0x0108": "nvme"}),
    ("virtio", "device", {"0x0002": "virtio_blk", "0x0008": "virtio_scsi"}),
    ("scsi", "type", {"0\n": "sd_mod", "5\n": "sr_mod"}),
)


def find_unbound(kernel: "Kernel") -> dict[str, str]:
    """Return the disks, CD-ROMs and their controllers without a driver, each with its module."""
    found: dict[str, str] = {}
    for bus, attribute, modules in _KINDS:
        for name in kernel.list_directory(f"/sys/bus/{bus}/devices"):
            kind = _read_kind(f"/sys/bus/{bus}/devices/{name}", attribute, kernel)
            module = next((modules[begin] for begin in modules if kind.startswith(begin)), "")
            if module:
                found[name] = module
    return found


def _read_kind(device: str, attribute: str, kernel: "Kernel") -> str:
    """Return an attribute of a device; empty if the device has none, or if it has a driver."""
    if kernel.exists(f"{device}/driver"):
        return ""
    try:
        return kernel.read(f"{device}/{attribute}")
    except OSError:  # a host or a target of the SCSI bus has no type
        return ""
