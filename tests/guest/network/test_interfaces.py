"""Finding network interfaces in /sys, and explaining why there is none."""

import errno
import os

import pytest

from initrd.guest.failure import BootError
from initrd.guest.network import interfaces
from tests.fake_kernel import FakeKernel

NET = "/sys/class/net"
DRIVER = "/sys/bus/virtio/drivers/virtio_net"


def interface(
    name: str, *, arp_type: str = "1", has_device: bool = True, carrier: str = "1"
) -> dict[str, str]:
    """Return the files in /sys of a network interface."""
    files = {
        f"{NET}/{name}/type": f"{arp_type}\n",
        f"{NET}/{name}/carrier": f"{carrier}\n",
        f"{NET}/{name}/address": "52:54:00:12:34:56\n",
    }
    return files | ({f"{NET}/{name}/device/uevent": ""} if has_device else {})


def pci_card(
    slot: str, vendor: str, device: str, *, has_driver: bool, pci_class: str = "0x020000"
) -> dict[str, str]:
    """Return the files in /sys of a PCI device."""
    path = f"/sys/bus/pci/devices/{slot}"
    files = {f"{path}/class": pci_class, f"{path}/vendor": vendor, f"{path}/device": f"{device}\n"}
    return files | ({f"{path}/driver/bind": ""} if has_driver else {})


LOOPBACK = interface("lo", arp_type="772", has_device=False)
VIRTIO_CARD = pci_card("0:1", "0x1af4", "0x1041", has_driver=True) | {
    "/sys/bus/virtio/devices/virtio0/device": "0x0001\n"
}


def test_all_ethernet_interfaces_of_devices_are_found() -> None:
    files = LOOPBACK | interface("eth1") | interface("eth0") | interface("br0", has_device=False)
    kernel = FakeKernel(files=files | interface("wwan0", arp_type="65534"))
    assert interfaces.find_interfaces("", 10, kernel) == ("eth0", "eth1")  # type: ignore[arg-type]
    assert kernel.clock == 0


def test_named_interface_may_be_of_any_type() -> None:
    kernel = FakeKernel(files=interface("eth0") | interface("br0", has_device=False))
    assert interfaces.find_interfaces("br0", 10, kernel) == ("br0",)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["", "eth1"])
def test_late_interface_is_waited_for(name: str) -> None:
    kernel = FakeKernel(files=LOOPBACK)

    def plug(clock: float) -> None:
        if clock > 3:
            kernel.files.update(interface("eth1"))

    kernel.after_sleep = plug
    assert interfaces.find_interfaces(name, 10, kernel) == ("eth1",)  # type: ignore[arg-type]
    assert 3 < kernel.clock < 4


def fail_to_find(name: str, files: dict[str, str]) -> tuple[str, float]:
    """Return the error message and the seconds waited."""
    kernel = FakeKernel(files=LOOPBACK | files)
    with pytest.raises(BootError) as caught:
        interfaces.find_interfaces(name, 10, kernel)  # type: ignore[arg-type]
    return str(caught.value), kernel.clock


# Files in /sys, the reason in the message, and the options in its hint.
MISSING_MODULES = {
    "virtio": (VIRTIO_CARD, "no module virtio_net in the image", "--module virtio_net"),
    "virtio without transport": (
        pci_card("0:1", "0x1af4", "0x1000", has_driver=False),
        "no module virtio_pci and virtio_net in the image",
        "--module virtio_pci --module virtio_net",
    ),
    "virtio-mmio": (
        {"/sys/bus/virtio/devices/virtio3/device": "0x0001\n"},
        "no module virtio_net in the image",
        "--module virtio_net",
    ),
    "e1000e with virtio_net loaded": (
        {f"{DRIVER}/bind": ""} | pci_card("0:1", "0x8086", "0x10d3", has_driver=False),
        "no module e1000e in the image",
        "--module e1000e",
    ),
    "two cards": (
        VIRTIO_CARD | pci_card("0:2", "0x8086", "0x100e", has_driver=False),
        "no module e1000 or virtio_net in the image",
        "--module e1000 --module virtio_net",
    ),
}


@pytest.mark.parametrize("case", MISSING_MODULES)
def test_network_card_without_driver_fails_at_once_and_names_the_module(case: str) -> None:
    files, why, hint = MISSING_MODULES[case]
    message, waited = fail_to_find("", files)
    assert waited == 0
    assert why in message
    assert message.endswith(f"\ntry: make the image with mkvirtinitrd {hint}")


def test_missing_network_card_is_reported_after_the_timeout() -> None:
    message, waited = fail_to_find(
        "", pci_card("0:3", "0x1af4", "0x1042", has_driver=True, pci_class="0x010000")
    )
    assert waited == pytest.approx(10)
    assert message.startswith("cannot configure the network: no network device after 10 s\ntry: ")


def test_unknown_interface_is_reported_with_the_existing_names() -> None:
    message, _ = fail_to_find("ens3", interface("eth0") | interface("eth1"))
    assert "on ens3: no device ens3 after 10 s; there are: eth0, eth1" in message


def test_unknown_interface_is_explained_by_a_card_without_driver() -> None:
    e1000 = pci_card("0:2", "0x8086", "0x100e", has_driver=False)
    message, _ = fail_to_find("eth1", interface("eth0") | {f"{DRIVER}/bind": ""} | e1000)
    assert "no module e1000 in the image" in message


def test_mac_address_is_read() -> None:
    kernel = FakeKernel(files=interface("eth0"))
    assert interfaces.mac_address("eth0", kernel).hex() == "525400123456"  # type: ignore[arg-type]


def test_only_interfaces_with_a_link_are_returned() -> None:
    files = interface("eth0", carrier="0") | interface("eth1") | interface("eth2")
    linked = interfaces.wait_for_carrier(("eth0", "eth1", "eth2"), 5, FakeKernel(files=files))  # type: ignore[arg-type]
    assert linked == ("eth1", "eth2")


class DownKernel(FakeKernel):
    """A kernel whose interfaces are down for 2 s: reading their `carrier` fails."""

    error = errno.EINVAL

    def read(self, path: str) -> str:
        if path.endswith("/carrier") and self.clock < 2:
            raise OSError(self.error, os.strerror(self.error))
        return super().read(path)


def test_late_link_is_waited_for() -> None:
    kernel = DownKernel(files=interface("eth0"))
    assert interfaces.wait_for_carrier(("eth0",), 5, kernel) == ("eth0",)  # type: ignore[arg-type]
    assert 2 <= kernel.clock < 3


def test_missing_link_fails_the_boot() -> None:
    kernel = FakeKernel(files=interface("eth0", carrier="0"))
    with pytest.raises(BootError, match="on eth0: no link: nothing is plugged into"):
        interfaces.wait_for_carrier(("eth0",), 5, kernel)  # type: ignore[arg-type]


def test_read_error_of_carrier_is_not_taken_for_a_missing_link() -> None:
    kernel = DownKernel(files=interface("eth0"))
    kernel.error = errno.EIO
    with pytest.raises(OSError, match="Input/output error"):
        interfaces.wait_for_carrier(("eth0",), 5, kernel)  # type: ignore[arg-type]
