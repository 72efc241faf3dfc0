"""Devices of a template: unplugged from their slot, and configured at the start."""

import errno

import pytest

from initrd.guest.command.hotplug import Slot
from initrd.guest.failure import BootError
from tests.guest.command.template_machine import (
    DEVICES,
    DRIVERS,
    PORT,
    PORT_CONFIG,
    TemplateKernel,
    config_space,
)

FIRST, SECOND = f"{DEVICES}/0000:01:00.0", f"{DEVICES}/0000:01:00.1"


def slot_of(kernel: TemplateKernel) -> Slot:
    return Slot(PORT, kernel)  # type: ignore[arg-type]


def test_drivers_are_unbound_before_the_power_goes_off_and_on() -> None:
    kernel = TemplateKernel("virtiofs", "virtio_blk")
    slot_of(kernel).unplug()
    assert kernel.calls_named("write", "write_at") == [
        ("write", f"{DRIVERS}/virtiofs/unbind", b"virtio3"),
        ("write", f"{DRIVERS}/virtio_blk/unbind", b"virtio4"),
        ("write_at", f"{DEVICES}/config", b"\xc3\xff", 0x6C),
        ("write_at", f"{DEVICES}/config", b"\xc3\xf9", 0x6C),
    ]


def test_devices_are_configured_before_their_drivers_are_bound() -> None:
    kernel = TemplateKernel("virtiofs", "virtio_blk")
    slot = slot_of(kernel)
    slot.unplug()
    kernel.calls.clear()
    kernel.files.clear()  # nothing is read or opened at the start
    slot.restore()
    assert kernel.calls == [
        ("write_at", f"{FIRST}/config", bytes(range(1, 25)), 0x10),
        ("write_at", f"{FIRST}/config", b"\x07\x00", 0x04),
        ("write", f"{DRIVERS}/virtiofs/bind", b"virtio3"),
        ("write_at", f"{SECOND}/config", bytes(range(17, 41)), 0x10),
        ("write_at", f"{SECOND}/config", b"\x07\x01", 0x04),
        ("write", f"{DRIVERS}/virtio_blk/bind", b"virtio4"),
    ]


def test_only_the_files_of_the_devices_stay_open_in_a_template() -> None:
    kernel = TemplateKernel("virtiofs", "virtio_blk")
    slot = slot_of(kernel)
    slot.unplug()
    names = [kernel.opened_paths[fd] for fd in sorted(kernel.left_open)]
    assert names == [
        f"{FIRST}/config",
        f"{DRIVERS}/virtiofs/bind",
        f"{SECOND}/config",
        f"{DRIVERS}/virtio_blk/bind",
    ]
    slot.restore()
    assert kernel.left_open == set()
    assert len(kernel.closed) == len(set(kernel.closed))


@pytest.mark.parametrize(
    ("before", "off", "on"),
    [
        pytest.param(b"\x00\x00", b"\x00\x07", b"\x00\x01", id="no bit"),
        pytest.param(b"\xff\xff", b"\xff\xff", b"\xff\xf9", id="all bits"),
        pytest.param(b"\x00\x07", b"\x00\x07", b"\x00\x01", id="power is off"),
        pytest.param(b"\xf1\x01", b"\xf1\x07", b"\xf1\x01", id="power is on"),
    ],
)
def test_other_bits_of_the_slot_control_register_are_kept(
    before: bytes, off: bytes, on: bytes
) -> None:
    config = config_space((0x34, b"\x80"), (0x80, b"\x10"), (0x98, before))
    kernel = TemplateKernel(config=config)
    slot_of(kernel).unplug()
    assert [call[2:] for call in kernel.calls_named("write_at")] == [(off, 0x98), (on, 0x98)]


def test_an_empty_slot_has_nothing_to_restore() -> None:
    kernel = TemplateKernel()
    slot = slot_of(kernel)
    slot.unplug()
    kernel.calls.clear()
    slot.restore()
    assert kernel.calls == []


def test_reserved_bits_of_a_capability_pointer_are_ignored() -> None:
    config = config_space((0x34, b"\x43"), (0x40, b"\x01\x83"), (0x80, b"\x10"))
    kernel = TemplateKernel(config=config)
    slot_of(kernel).unplug()
    assert {call[3] for call in kernel.calls_named("write_at")} == {0x98}


@pytest.mark.parametrize(
    "config",
    [
        pytest.param(config_space(), id="no capabilities"),
        pytest.param(config_space((0x34, b"\x40"), (0x40, b"\x01\x00")), id="another capability"),
        pytest.param(config_space((0x34, b"\x40"), (0x40, b"\x01\x40")), id="loop of one"),
        pytest.param(
            config_space((0x34, b"\x40"), (0x40, b"\x01\x50"), (0x50, b"\x05\x40")),
            id="loop of two",
        ),
        pytest.param("", id="empty"),
        pytest.param(PORT_CONFIG[:0x34], id="cut before the pointer"),
        pytest.param(PORT_CONFIG[:0x40], id="cut before the first capability"),
        pytest.param(PORT_CONFIG[:0x54], id="cut before PCI Express"),
        pytest.param("\udcff" * 256, id="a device that is gone"),
    ],
)
def test_a_port_without_the_pcie_capability_is_an_error(config: str) -> None:
    kernel = TemplateKernel(config=config)
    with pytest.raises(BootError, match=f"the devices at {DEVICES}: it is no PCIe port"):
        slot_of(kernel).unplug()
    assert kernel.calls == []


def test_a_missing_port_is_an_error() -> None:
    with pytest.raises(BootError, match=r"devices/0000:00:1f\.0: there is no such port"):
        Slot("0000:00:1f.0", TemplateKernel("virtiofs")).unplug()  # type: ignore[arg-type]


@pytest.mark.parametrize("change", ["no driver", "no virtio device"])
def test_a_device_without_a_virtio_driver_is_an_error(change: str) -> None:
    kernel = TemplateKernel("virtiofs", "virtio_blk")
    if change == "no driver":
        del kernel.links[f"{SECOND}/virtio4/driver"]
    else:
        del kernel.files[f"{SECOND}/virtio4/status"]
    with pytest.raises(BootError, match=f"unplug {SECOND}: no virtio driver is bound to it"):
        slot_of(kernel).unplug()
    assert kernel.calls_named("write_at") == []


def test_a_device_that_is_not_plugged_in_again_is_an_error() -> None:
    kernel = TemplateKernel("virtiofs", "virtio_blk")
    slot = slot_of(kernel)
    slot.unplug()
    kernel.errors[("write", f"{DRIVERS}/virtiofs/bind")] = errno.ENODEV
    with pytest.raises(OSError, match="No such device"):
        slot.restore()
    assert kernel.bound == []
