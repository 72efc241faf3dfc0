"""Find and open virtio-serial ports by name, in a fake sysfs."""

import errno

import pytest

from initrd.guest.command.ports import open_ports
from initrd.guest.failure import BootError
from tests.fake_kernel import FakeKernel

CLASS = "/sys/class/virtio-ports"
TRANSPORT = "/sys/bus/pci/drivers/virtio-pci/bind"
DRIVER = "/sys/bus/virtio/drivers/virtio_console/bind"


def kernel_with_ports(**names: str) -> FakeKernel:
    files = {f"{CLASS}/{device}/name": f"{name}\n" for device, name in names.items()}
    kernel = FakeKernel(files={DRIVER: "", TRANSPORT: "", **files})
    kernel.ports = {f"/dev/{device}": number for number, device in enumerate(names, 10)}
    return kernel


def open_named(kernel: FakeKernel, *names: str) -> dict[str, int]:
    return open_ports(names, 3, kernel)  # type: ignore[arg-type]


def test_ports_are_found_by_name_independent_of_device_numbers() -> None:
    kernel = kernel_with_ports(vport2p9="b", vport0p1="a", vport0p2="else")
    assert open_named(kernel, "a", "b") == {"a": 11, "b": 10}


def test_an_empty_list_of_names_opens_no_port() -> None:
    assert open_named(FakeKernel()) == {}


def test_open_ports_waits_for_a_port_whose_name_appears_late() -> None:
    kernel = kernel_with_ports(vport0p1="a")
    kernel.directories.add(f"{CLASS}/vport0p2")  # a port without its name file
    kernel.ports["/dev/vport0p2"] = 20

    def create_name_file(clock: float) -> None:
        if clock > 0.5:
            kernel.files[f"{CLASS}/vport0p2/name"] = "b\n"

    kernel.after_sleep = create_name_file
    assert open_named(kernel, "a", "b") == {"a": 10, "b": 20}
    assert 0.5 < kernel.clock < 0.6


def test_timeout_error_names_the_missing_port_and_the_ports_that_exist() -> None:
    kernel = kernel_with_ports(vport0p1="a", vport0p2="c")
    with pytest.raises(BootError) as raised:
        open_named(kernel, "a", "b")
    assert "port b" in str(raised.value)
    assert "the ports there are: a, c" in str(raised.value)
    assert 3 <= kernel.clock < 3.1


def test_timeout_error_reports_a_machine_without_ports() -> None:
    with pytest.raises(BootError, match="there are none"):
        open_named(kernel_with_ports(), "a")


@pytest.mark.parametrize(
    ("files", "module"), [({}, "virtio_pci"), ({TRANSPORT: ""}, "virtio_console")]
)
def test_missing_driver_is_an_error_without_a_wait(files: dict[str, str], module: str) -> None:
    kernel = FakeKernel(files=files)
    with pytest.raises(BootError, match=f"--module {module}"):
        open_named(kernel, "a")
    assert kernel.clock == 0


def test_error_names_a_port_that_is_already_open() -> None:
    kernel = kernel_with_ports(vport0p1="a")
    kernel.errors["open_port"] = errno.EBUSY
    with pytest.raises(BootError, match=r"port a \(/dev/vport0p1\): Device or resource busy"):
        open_named(kernel, "a")
