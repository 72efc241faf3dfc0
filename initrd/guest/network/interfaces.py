"""Finds network interfaces in /sys, waits for those that are late, says why one never comes."""

import errno

from initrd.guest.failure import BootError
from initrd.guest.wait import wait_until

TYPE_CHECKING = False
if TYPE_CHECKING:
    from initrd.guest.kernel import Kernel

_INTERFACES = "/sys/class/net"
_ETHERNET = "1"  # ARPHRD_ETHER of include/uapi/linux/if_arp.h
_NETWORK_CLASS = "0x02"  # how the class of a PCI network controller begins
_PCI, _VIRTIO = "/sys/bus/pci/devices", "/sys/bus/virtio"
_VIRTIO_NET = "0x0001"  # VIRTIO_ID_NET of include/uapi/linux/virtio_ids.h
# Vendor and device of the cards that QEMU has and people use, and the modules for each.
_MODULES = {
    ("0x1af4", "0x1000"): "virtio_pci and virtio_net",
    ("0x1af4", "0x1041"): "virtio_pci and virtio_net",
    ("0x8086", "0x100e"): "e1000",
    ("0x8086", "0x10d3"): "e1000e",
    ("0x10ec", "0x8139"): "8139cp",
    ("0x15ad", "0x07b0"): "vmxnet3",
    ("0x8086", "0x10c9"): "igb",
}


def find(device: str, seconds: float, kernel: "Kernel") -> tuple[str, ...]:
    """Return the interface `device`, or all Ethernet ones there are when it is empty.

    Waits for the first one. Raises BootError when none comes, at once where none can.
    """

    def attempt() -> bool:
        if found():
            return True
        driverless = missing_modules(kernel)
        if driverless and not present(kernel):
            raise BootError(_subject(device), *_no_driver(driverless))
        return False

    def found() -> tuple[str, ...]:
        return tuple(name for name in present(kernel) if device in ("", name))

    if device and kernel.exists(f"{_INTERFACES}/{device}"):
        return (device,)  # whatever its kind: the user named it
    if not wait_until(attempt, seconds, kernel):
        raise BootError(_subject(device), *_explain(device, seconds, kernel))
    return found()


def present(kernel: "Kernel") -> tuple[str, ...]:
    """Return the Ethernet interfaces that are devices: no bridges, tunnels or loopback."""
    return tuple(
        name
        for name in kernel.list_directory(_INTERFACES)
        if kernel.exists(f"{_INTERFACES}/{name}/device")
        and kernel.read(f"{_INTERFACES}/{name}/type").strip() == _ETHERNET
    )


def mac_address(device: str, kernel: "Kernel") -> bytes:
    """Return an interface's hardware address."""
    return bytes.fromhex(kernel.read(f"{_INTERFACES}/{device}/address").strip().replace(":", ""))


def wait_for_carrier(devices: tuple[str, ...], seconds: float, kernel: "Kernel") -> tuple[str, ...]:
    """Return those of some interfaces whose link is up, waiting for the first. Raises BootError."""

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
        if error.errno == errno.EINVAL:  # what the kernel says of an interface that is down
            return False
        raise


def missing_modules(kernel: "Kernel") -> tuple[str, ...]:
    """Return the modules that network cards wait for in vain, as far as they are known here."""
    slots = (f"{_PCI}/{slot}" for slot in kernel.list_directory(_PCI))
    modules = {_missing_module(path, kernel) for path in slots} - {""}
    if not kernel.exists(f"{_VIRTIO}/drivers/virtio_net"):
        devices = kernel.list_directory(f"{_VIRTIO}/devices")
        kinds = {kernel.read(f"{_VIRTIO}/devices/{name}/device").strip() for name in devices}
        modules |= {"virtio_net"} if _VIRTIO_NET in kinds else set()
    return tuple(sorted(modules))


def _missing_module(path: str, kernel: "Kernel") -> str:
    is_network = kernel.read(f"{path}/class").startswith(_NETWORK_CLASS)
    if not is_network or kernel.exists(f"{path}/driver"):
        return ""
    vendor, device = (kernel.read(f"{path}/{name}").strip() for name in ("vendor", "device"))
    return _MODULES.get((vendor, device), "")


def _subject(device: str) -> str:
    return f"cannot configure the network{' on ' + device if device else ''}"


def _no_driver(modules: tuple[str, ...]) -> tuple[str, str]:
    options = " ".join(f"--module {word}" for name in modules for word in name.split(" and "))
    return (
        f"there is a network card, but no module {' or '.join(modules)} in the image",
        f"make the image with mkvirtinitrd {options}",
    )


def _explain(device: str, seconds: float, kernel: "Kernel") -> tuple[str, str]:
    there = present(kernel)
    driverless = missing_modules(kernel)
    if driverless:
        return _no_driver(driverless)
    if there:
        return (
            f"no device {device} after {seconds:g} s; there are: {', '.join(there)}",
            "use one of these names: the kernel's, which no udev has changed yet",
        )
    return (
        f"no network device after {seconds:g} s",
        "give the machine a network card (for QEMU: -nic user,model=virtio-net-pci), "
        "and the image its module",
    )
