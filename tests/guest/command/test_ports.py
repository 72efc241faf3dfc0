"""Finding the ports to the host."""

import errno

import pytest

from initrd.guest.command.ports import open_ports
from initrd.guest.failure import BootError
from tests.fake_kernel import FakeKernel

CLASS = "/sys/class/virtio-ports"
TRANSPORT = "/sys/bus/pci/drivers/virtio-pci/bind"
DRIVER = "/sys/bus/virtio/drivers/virtio_console/bind"


def with_ports(**names: str) -> FakeKernel:
    files = {f"{CLASS}/{device}/name": f"{name}\n" for device, name in names.items()}
    kernel = FakeKernel(files={DRIVER: "", TRANSPORT: "", **files})
    kernel.ports = {f"/dev/{device}": number for number, device in enumerate(names, 10)}
    return kernel


def find(kernel: FakeKernel, *names: str) -> dict[str, int]:
    return open_ports(names, 3, kernel)  # type: ignore[arg-type]


def test_ports_are_found_by_name_whatever_their_numbers() -> None:
    kernel = with_ports(vport2p9="b", vport0p1="a", vport0p2="else")
    assert find(kernel, "a", "b") == {"a": 11, "b": 10}


def test_none_are_none() -> None:
    assert find(FakeKernel()) == {}


def test_a_late_port_is_waited_for() -> None:
    kernel = with_ports(vport0p1="a")
    kernel.directories.add(f"{CLASS}/vport0p2")  # there, and still without its name
    kernel.ports["/dev/vport0p2"] = 20

    def named(clock: float) -> None:
        if clock > 0.5:
            kernel.files[f"{CLASS}/vport0p2/name"] = "b\n"

    kernel.after_sleep = named
    assert find(kernel, "a", "b") == {"a": 10, "b": 20}
    assert 0.5 < kernel.clock < 0.6


def test_a_port_that_never_comes_is_named_with_those_that_are_there() -> None:
    kernel = with_ports(vport0p1="a", vport0p2="c")
    with pytest.raises(BootError) as raised:
        find(kernel, "a", "b")
    assert "port b" in str(raised.value)
    assert "the ports there are: a, c" in str(raised.value)
    assert 3 <= kernel.clock < 3.1


def test_no_ports_at_all_is_said() -> None:
    with pytest.raises(BootError, match="there are none"):
        find(with_ports(), "a")


@pytest.mark.parametrize(
    ("files", "module"), [({}, "virtio_pci"), ({TRANSPORT: ""}, "virtio_console")]
)
def test_without_a_driver_there_is_nothing_to_wait_for(files: dict[str, str], module: str) -> None:
    kernel = FakeKernel(files=files)
    with pytest.raises(BootError, match=f"--module {module}"):
        find(kernel, "a")
    assert kernel.clock == 0


def test_a_port_that_is_taken_is_named() -> None:
    kernel = with_ports(vport0p1="a")
    kernel.errors["open_port"] = errno.EBUSY
    with pytest.raises(BootError, match=r"port a \(/dev/vport0p1\): Device or resource busy"):
        find(kernel, "a")
