"""Finding network interfaces in /sys, and saying why there is none."""

import errno
import os

import pytest

from initrd.guest.failure import BootError
from initrd.guest.network import interfaces
from tests.fake_kernel import FakeKernel

NET = "/sys/class/net"
DRIVER = "/sys/bus/virtio/drivers/virtio_net"


def interface(
    name: str, *, kind: str = "1", real: bool = True, carrier: str = "1"
) -> dict[str, str]:
    files = {
        f"{NET}/{name}/type": f"{kind}\n",
        f"{NET}/{name}/carrier": f"{carrier}\n",
        f"{NET}/{name}/address": "52:54:00:12:34:56\n",
    }
    return files | ({f"{NET}/{name}/device/uevent": ""} if real else {})


def card(
    slot: str, vendor: str, device: str, *, driver: bool, kind: str = "0x020000"
) -> dict[str, str]:
    path = f"/sys/bus/pci/devices/{slot}"
    files = {f"{path}/class": kind, f"{path}/vendor": vendor, f"{path}/device": f"{device}\n"}
    return files | ({f"{path}/driver/bind": ""} if driver else {})


LOOPBACK = interface("lo", kind="772", real=False)
VIRTIO_CARD = card("0:1", "0x1af4", "0x1041", driver=True) | {
    "/sys/bus/virtio/devices/virtio0/device": "0x0001\n"
}


def test_what_is_a_device_is_found() -> None:
    files = LOOPBACK | interface("eth1") | interface("eth0") | interface("br0", real=False)
    kernel = FakeKernel(files=files | interface("wwan0", kind="65534"))
    assert interfaces.find("", 10, kernel) == ("eth0", "eth1")  # type: ignore[arg-type]
    assert kernel.clock == 0


def test_one_that_is_named_may_be_of_any_kind() -> None:
    kernel = FakeKernel(files=interface("eth0") | interface("br0", real=False))
    assert interfaces.find("br0", 10, kernel) == ("br0",)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["", "eth1"])
def test_one_that_comes_late_is_waited_for(name: str) -> None:
    kernel = FakeKernel(files=LOOPBACK)

    def plug(clock: float) -> None:
        if clock > 3:
            kernel.files.update(interface("eth1"))

    kernel.after_sleep = plug
    assert interfaces.find(name, 10, kernel) == ("eth1",)  # type: ignore[arg-type]
    assert 3 < kernel.clock < 4


def failure(name: str, files: dict[str, str]) -> tuple[str, float]:
    kernel = FakeKernel(files=LOOPBACK | files)
    with pytest.raises(BootError) as caught:
        interfaces.find(name, 10, kernel)  # type: ignore[arg-type]
    return str(caught.value), kernel.clock


MISSING = {
    "virtio": (VIRTIO_CARD, "no module virtio_net in the image", "--module virtio_net"),
    "virtio without transport": (
        card("0:1", "0x1af4", "0x1000", driver=False),
        "no module virtio_pci and virtio_net in the image",
        "--module virtio_pci --module virtio_net",
    ),
    "virtio over mmio": (
        {"/sys/bus/virtio/devices/virtio3/device": "0x0001\n"},
        "no module virtio_net in the image",
        "--module virtio_net",
    ),
    "e1000e, though virtio_net is there": (
        {f"{DRIVER}/bind": ""} | card("0:1", "0x8086", "0x10d3", driver=False),
        "no module e1000e in the image",
        "--module e1000e",
    ),
    "two kinds": (
        VIRTIO_CARD | card("0:2", "0x8086", "0x100e", driver=False),
        "no module e1000 or virtio_net in the image",
        "--module e1000 --module virtio_net",
    ),
}


@pytest.mark.parametrize("case", MISSING)
def test_a_card_without_driver_names_the_module_at_once(case: str) -> None:
    files, why, hint = MISSING[case]
    message, waited = failure("", files)
    assert waited == 0
    assert why in message
    assert message.endswith(f"\ntry: make the image with mkvirtinitrd {hint}")


def test_no_card_at_all_is_said_after_the_timeout() -> None:
    message, waited = failure("", card("0:3", "0x1af4", "0x1042", driver=True, kind="0x010000"))
    assert waited == pytest.approx(10)
    assert message.startswith("cannot configure the network: no network device after 10 s\ntry: ")


def test_a_name_that_is_not_there_is_said_with_those_that_are() -> None:
    message, _ = failure("ens3", interface("eth0") | interface("eth1"))
    assert "on ens3: no device ens3 after 10 s; there are: eth0, eth1" in message


def test_a_name_that_is_not_there_may_be_a_card_without_driver() -> None:
    e1000 = card("0:2", "0x8086", "0x100e", driver=False)
    message, _ = failure("eth1", interface("eth0") | {f"{DRIVER}/bind": ""} | e1000)
    assert "no module e1000 in the image" in message


def test_a_hardware_address_is_read() -> None:
    kernel = FakeKernel(files=interface("eth0"))
    assert interfaces.mac_address("eth0", kernel).hex() == "525400123456"  # type: ignore[arg-type]


def test_those_with_a_link_are_used() -> None:
    files = interface("eth0", carrier="0") | interface("eth1") | interface("eth2")
    linked = interfaces.wait_for_carrier(("eth0", "eth1", "eth2"), 5, FakeKernel(files=files))  # type: ignore[arg-type]
    assert linked == ("eth1", "eth2")


class DownKernel(FakeKernel):
    """A kernel whose interfaces are still down: it refuses to tell of their links."""

    error = errno.EINVAL

    def read(self, path: str) -> str:
        if path.endswith("/carrier") and self.clock < 2:
            raise OSError(self.error, os.strerror(self.error))
        return super().read(path)


def test_a_link_that_comes_late_is_waited_for() -> None:
    kernel = DownKernel(files=interface("eth0"))
    assert interfaces.wait_for_carrier(("eth0",), 5, kernel) == ("eth0",)  # type: ignore[arg-type]
    assert 2 <= kernel.clock < 3


def test_no_link_is_a_failure() -> None:
    kernel = FakeKernel(files=interface("eth0", carrier="0"))
    with pytest.raises(BootError, match="on eth0: no link: nothing is plugged into"):
        interfaces.wait_for_carrier(("eth0",), 5, kernel)  # type: ignore[arg-type]


def test_another_error_of_the_kernel_is_not_taken_for_a_missing_link() -> None:
    kernel = DownKernel(files=interface("eth0"))
    kernel.error = errno.EIO
    with pytest.raises(OSError, match="Input/output error"):
        interfaces.wait_for_carrier(("eth0",), 5, kernel)  # type: ignore[arg-type]
