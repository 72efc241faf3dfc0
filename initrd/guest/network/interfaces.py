"""Find network interfaces in /sys, wait for an interface or a link, explain a missing one."""

import errno

from initrd.guest.failure import BootError
from initrd.guest.wait import wait_until

TYPE_CHECKING = False
if TYPE_CHECKING:
    from initrd.guest.kernel import Kernel

_INTERFACES = "/sys/class/net"
_ETHERNET = "1"  # ARPHRD_ETHER of include/uapi/linux/if_arp.h
_NETWORK_CLASS = "0x02"  # the first byte of the class of a PCI network controller
_PCI, _VIRTIO = "/sys/bus/pci/devices", "/sys/bus/virtio"
_VIRTIO_NET = "0x0001"  # VIRTIO_ID_NET of include/uapi/linux/virtio_ids.h
# PCI vendor and device of the usual network cards of QEMU, and the modules for each.
_MODULES = {
    ("0x1af4", "0x1000"): "virtio_pci and virtio_net",
    ("0x1af4", "0x1041"): "virtio_pci and virtio_net",
    ("0x8086", "0x100e"): "e1000",
    ("0x8086", "0x10d3"): "e1000e",
    ("0x10ec", "0x8139"): "8139cp",
    ("0x15ad", "0x07b0"): "vmxnet3",
    ("0x8086", "0x10c9"): "igb",
}


def find_interfaces(device: str, seconds: float, kernel: "Kernel") -> tuple[str, ...]:
    """Return the interface `device`, or all Ethernet interfaces when `device` is empty.

    Wait for the first one, at most `seconds`. Raises BootError when none appears; without waiting
    when there is no Ethernet interface and a network card lacks its module.
    """

    def matching() -> tuple[str, ...]:
        return tuple(name for name in list_ethernet(kernel) if device in ("", name))

    def has_appeared() -> bool:
        if matching():
            return True
        modules = missing_modules(kernel)
        if modules and not list_ethernet(kernel):
            raise BootError(_describe_failure(device), *_explain_missing_modules(modules))
        return False

    if device and kernel.exists(f"{_INTERFACES}/{device}"):
        return (device,)  # of any kind, because the user named it
    if not wait_until(has_appeared, seconds, kernel):
        raise BootError(_describe_failure(device), *_explain_timeout(device, seconds, kernel))
    return matching()


def list_ethernet(kernel: "Kernel") -> tuple[str, ...]:
    """Return the Ethernet interfaces of devices: no bridge, no tunnel, not the loopback."""
    return tuple(
        name
        for name in kernel.list_directory(_INTERFACES)
        if kernel.exists(f"{_INTERFACES}/{name}/device")
        and kernel.read(f"{_INTERFACES}/{name}/type").strip() == _ETHERNET
    )


def mac_address(device: str, kernel: "Kernel") -> bytes:
    """Return the hardware address of an interface."""
    return bytes.fromhex(kernel.read(f"{_INTERFACES}/{device}/address").strip().replace(":", ""))


def wait_for_carrier(devices: tuple[str, ...], seconds: float, kernel: "Kernel") -> tuple[str, ...]:
    """Return the interfaces with a link; wait up to `seconds` for the first. Raises BootError."""

    def linked() -> tuple[str, ...]:
        return tuple(device for device in devices if _has_carrier(device, kernel))

    if not wait_until(lambda: bool(linked()), seconds, kernel):
        names = ", ".join(devices)
        raise BootError(
            f"cannot configure the network on {names}",
            "no link: nothing is plugged into the network card",
            "plug it in (for QEMU: -netdev, and the link state), or give it more time with "
            "initrd.timeout=",
        )
    return linked()


def _has_carrier(device: str, kernel: "Kernel") -> bool:
    try:
        return kernel.read(f"{_INTERFACES}/{device}/carrier").strip() == "1"
    except OSError as error:
        if error.errno == errno.EINVAL:  # the interface is down
            return False
        raise


def missing_modules(kernel: "Kernel") -> tuple[str, ...]:
    """Return the modules for the network cards without a driver, if this file lists the card."""
    slots = (f"{_PCI}/{slot}" for slot in kernel.list_directory(_PCI))
    modules = {_missing_module(path, kernel) for path in slots} - {""}
    if not kernel.exists(f"{_VIRTIO}/drivers/virtio_net"):
        devices = kernel.list_directory(f"{_VIRTIO}/devices")
        ids = {kernel.read(f"{_VIRTIO}/devices/{name}/device").strip() for name in devices}
        modules |= {"virtio_net"} if _VIRTIO_NET in ids else set()
    return tuple(sorted(modules))


def _missing_module(path: str, kernel: "Kernel") -> str:
    """Return the modules for the PCI device at `path`; empty when none is missing or known."""
    is_network = kernel.read(f"{path}/class").startswith(_NETWORK_CLASS)
    if not is_network or kernel.exists(f"{path}/driver"):
        return ""
    vendor, device = (kernel.read(f"{path}/{name}").strip() for name in ("vendor", "device"))
    return _MODULES.get((vendor, device), "")


def _describe_failure(device: str) -> str:
    return f"cannot configure the network{' on ' + device if device else ''}"


def _explain_missing_modules(modules: tuple[str, ...]) -> tuple[str, str]:
    """Return the reason and the hint of a BootError."""
    options = " ".join(f"--module {word}" for name in modules for word in name.split(" and "))
    return (
        f"there is a network card, but no module {' or '.join(modules)} in the image",
        f"make the image with mkvirtinitrd {options}",
    )


def _explain_timeout(device: str, seconds: float, kernel: "Kernel") -> tuple[str, str]:
    """Return the reason and the hint of a BootError."""
    names = list_ethernet(kernel)
    modules = missing_modules(kernel)
    if modules:
        return _explain_missing_modules(modules)
    if names:
        return (
            f"no device {device} after {seconds:g} s; there are: {', '.join(names)}",
            "use one of these names: the kernel's, before udev renames interfaces",
        )
    return (
        f"no network device after {seconds:g} s",
        "give the machine a network card (for QEMU: -nic user,model=virtio-net-pci), "
        "and the image its module",
    )
