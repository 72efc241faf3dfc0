"""Unplug the devices of a template from their slot, and use others in their place at the start.

A virtiofs device cannot be part of a saved machine. So the template boots with devices of the right
kinds, which the kernel finds and sets up; before the machine is saved they are unplugged without
the kernel's knowledge. At the start the host plugs in devices of the same kinds. Only their PCI
configuration is missing then: it is written, and their drivers are bound again. This takes a third
of the time of a search for new devices.

The kernel must not manage the slot itself (`pcie_ports=compat`).

Source: "PCI Express Base Specification", Slot Control Register; the kernel's
`Documentation/ABI/testing/sysfs-bus-pci`, `Documentation/ABI/testing/sysfs-bus` (`bind`, `unbind`).
"""

from initrd.guest.failure import BootError
from initrd.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from initrd.guest.kernel import Kernel

_PCI_DEVICES = "/sys/bus/pci/devices"
_VIRTIO_BUS = "/sys/bus/virtio"
# Offsets in the configuration space: include/uapi/linux/pci_regs.h.
_COMMAND, _BASE_ADDRESSES, _BASE_ADDRESSES_END, _CAPABILITIES = 0x04, 0x10, 0x28, 0x34
_CONFIG_SIZE, _MAX_CAPABILITIES = 256, 48  # of the part that has the list of capabilities
_PCI_EXPRESS, _SLOT_CONTROL = 0x10, 0x18  # the capability, and an offset in it
_POWER_BITS, _POWER_OFF, _POWER_ON = 0x0700, 0x0700, 0x0100  # power controller and indicator


class _Device(Record):
    """A device in the slot; its files are open, because opening takes longer than writing."""

    name: str  # of the virtio device
    config: int  # descriptor of the PCI configuration space
    bind: int  # descriptor of the driver's file `bind`
    addresses: bytes  # base address registers
    command: bytes  # command register


class Slot:
    """The devices behind one PCI Express port."""

    def __init__(self, port: str, kernel: "Kernel") -> None:
        """`port`: the PCI address of the port."""
        self._port, self._kernel = f"{_PCI_DEVICES}/{port}", kernel
        self._devices: tuple[_Device, ...] = ()

    def unplug(self) -> None:
        """Unbind the drivers of all devices, and switch the slot's power off and on.

        Raises BootError and OSError.
        """
        names = self._kernel.list_directory(self._port)
        if not names:
            raise BootError(f"cannot unplug the devices at {self._port}", "there is no such port")
        functions = [name for name in names if name[:1].isdigit() and name.count(":") == 2]
        self._devices = tuple(self._release(f"{self._port}/{name}") for name in functions)
        control = self._find_slot_control()
        with_other_bits = int.from_bytes(control.value, "little") & ~_POWER_BITS
        for power in (_POWER_OFF, _POWER_ON):  # QEMU unplugs the devices when the power goes off
            self._kernel.write_at(
                control.file, (with_other_bits | power).to_bytes(2, "little"), control.offset
            )
        self._kernel.close(control.file)

    def restore(self) -> None:
        """Configure the devices in the slot, which are new, and bind drivers. Raises OSError."""
        for device in self._devices:
            self._kernel.write_at(device.config, device.addresses, _BASE_ADDRESSES)
            self._kernel.write_at(device.config, device.command, _COMMAND)
            self._kernel.write(device.bind, device.name.encode())
            self._kernel.close(device.config)
            self._kernel.close(device.bind)

    def _release(self, function: str) -> _Device:
        """Unbind the driver of a PCI function's virtio device; return how to use it again."""
        virtio = [name for name in self._kernel.list_directory(function) if name[:6] == "virtio"]
        driver = self._kernel.read_link(f"{function}/{virtio[0]}/driver") if virtio else ""
        if not driver:
            raise BootError(f"cannot unplug {function}", "no virtio driver is bound to it")
        drivers = f"{_VIRTIO_BUS}/drivers/{driver.rpartition('/')[2]}"
        unbind = self._kernel.open_to_write(f"{drivers}/unbind")
        self._kernel.write(unbind, virtio[0].encode())
        self._kernel.close(unbind)
        config = self._kernel.read_bytes(f"{function}/config")
        return _Device(
            virtio[0],
            self._kernel.open_to_write(f"{function}/config"),
            self._kernel.open_to_write(f"{drivers}/bind"),
            config[_BASE_ADDRESSES:_BASE_ADDRESSES_END],
            config[_COMMAND : _COMMAND + 2],
        )

    def _find_slot_control(self) -> "_Register":
        """Return the port's Slot Control Register."""
        path = f"{self._port}/config"
        config = self._kernel.read_bytes(path)
        capability = _find_capability(_PCI_EXPRESS, config)
        if not capability:
            raise BootError(f"cannot unplug the devices at {self._port}", "it is no PCIe port")
        offset = capability + _SLOT_CONTROL
        return _Register(self._kernel.open_to_write(path), offset, config[offset : offset + 2])


class _Register(Record):
    file: int  # descriptor of the configuration space
    offset: int
    value: bytes


def _find_capability(number: int, config: bytes) -> int:
    """Return the offset of a capability in a configuration space; 0 if the list does not have it.

    The list is not trusted: it may loop, or be cut off.
    """
    config, pointer = config.ljust(_CONFIG_SIZE, b"\0"), _CAPABILITIES
    for _ in range(_MAX_CAPABILITIES):
        at = config[pointer] & ~3  # the lower bits are reserved
        if not at or config[at] == number:
            return at
        pointer = at + 1
    return 0
