"""QEMU's command line for a template, and for the machines that start from it."""

import itertools
from collections.abc import Callable

import pytest

from initrd.host.qemu import argv
from initrd.host.qemu.arch import find_arch
from initrd.host.qemu.argv import (
    Connections,
    Device,
    Disk,
    Hardware,
    PublishedPort,
    Setup,
    fd_stream,
)
from initrd.host.system.files import OpenFile
from initrd.options import Share

PORTS = ("initrd.control", "initrd.stdin")
SETUP = Setup(
    "qemu",
    Hardware(find_arch("x86_64"), "tcg", memory=1 << 30, cpus=1),
    kernel=OpenFile("/cache/vmlinux", 8),
    initrd=OpenFile("/cache/image", 9),
    cmdline="console=ttyS0 quiet",
    ports=PORTS,
    generation="00000000-0000-0000-0000-000000000001",
)
CONNECTIONS = Connections(fd_stream(5), ports=(fd_stream(3), fd_stream(-1)), monitor=fd_stream(4))
MEMORY = "/proc/self/fd/7"
FULL = SETUP.replace(
    shares=(Share("rootfs"), Share("a,b")),
    disks=(Disk("/srv/a,b.img"),),
    network=True,
    mac="52:54:00:01:02:03",
)
FULL_CONNECTIONS = CONNECTIONS.replace(shares=(fd_stream(10), fd_stream(11)))
SETUPS = pytest.mark.parametrize(
    ("setup", "connections"),
    [
        pytest.param(SETUP, CONNECTIONS, id="no devices"),
        pytest.param(FULL, FULL_CONNECTIONS, id="all devices"),
        pytest.param(SETUP.replace(firmware="/qboot.rom"), CONNECTIONS, id="lean firmware"),
        pytest.param(
            FULL.replace(hardware=SETUP.hardware.replace(accelerator="kvm", cpus=4)),
            FULL_CONNECTIONS,
            id="KVM",
        ),
    ],
)


def template(setup: Setup = FULL, connections: Connections = FULL_CONNECTIONS) -> tuple[str, ...]:
    return argv.template_command(setup, connections, MEMORY)


def start(setup: Setup = FULL, connections: Connections = FULL_CONNECTIONS) -> tuple[str, ...]:
    return argv.start_command(setup, connections, MEMORY)


def values(option: str, words: tuple[str, ...]) -> list[str]:
    """Return the values of all uses of an option on a command line."""
    return [value for name, value in itertools.pairwise(words) if name == option]


@SETUPS
def test_template_and_start_have_the_same_machine_in_the_same_order(
    setup: Setup, connections: Connections
) -> None:
    words, other = template(setup, connections), start(setup, connections)
    common = [
        one
        for one, two in itertools.takewhile(lambda p: p[0] == p[1], zip(words, other, strict=False))
    ]
    for option in ("-machine", "-accel", "-cpu", "-smp", "-m", "-global", "-object", "-kernel"):
        assert values(option, tuple(common)) == values(option, words) == values(option, other) != []
    assert values("-bios", tuple(common)) == values("-bios", words) == values("-bios", other)
    for option in ("-nodefaults", "-no-user-config", "-serial", "-mon"):
        assert option in common
    devices = values("-device", tuple(common))
    assert [device.split(",")[0] for device in devices[:4]] == [
        "virtio-serial-pci",
        "virtserialport",
        "virtserialport",
        "pcie-root-port",
    ]
    assert values("-device", other) == devices, "devices of the slot are plugged in later"


def test_memory_is_a_file_that_virtiofsd_can_map() -> None:
    assert values("-object", start()) == [
        "memory-backend-file,mem-path=/proc/self/fd/7,id=memory,size=1073741824,share=on"
    ]
    assert "memory-backend=memory" in values("-machine", start())[0]


def test_comma_in_the_path_of_the_memory_is_doubled() -> None:
    words = argv.start_command(SETUP, CONNECTIONS, "/a,b")
    assert "mem-path=/a,,b," in values("-object", words)[0]


def test_only_the_template_has_an_image_and_a_command_line() -> None:
    assert values("-initrd", template()) == ["/proc/self/fd/9"]
    assert values("-append", template()) == ["console=ttyS0 quiet"]
    assert values("-kernel", template()) == values("-kernel", start()) == ["/proc/self/fd/8"]
    assert not {"-initrd", "-append"} & set(start())


def test_only_the_start_waits_for_a_state() -> None:
    assert start()[-3:] == ("-S", "-incoming", "defer")
    assert not {"-S", "-incoming"} & set(template())


def test_port_for_the_slot_has_the_address_that_the_guest_is_told() -> None:
    ports = [device for device in values("-device", start()) if "pcie-root-port" in device]
    assert ports == ["pcie-root-port,id=hotplug0,chassis=1,slot=1,addr=03.0"]
    assert argv.PORT_ADDRESS == "0000:00:03.0"


def test_addresses_on_the_bus_of_the_processor_are_not_used_twice() -> None:
    addresses = [
        part.removeprefix("addr=")
        for device in values("-device", start())
        for part in device.split(",")
        if part.startswith("addr=")
    ]
    assert sorted(addresses) == ["02.0", "03.0"]


def test_firmware_and_kernel_do_not_manage_the_slot() -> None:
    assert values("-global", start()) == ["ICH9-LPC.acpi-pci-hotplug-with-bridge-support=off"]


def test_devices_of_the_slot_are_functions_in_their_order() -> None:
    devices = argv.plugged_devices(FULL)
    assert [device.driver for device in devices] == [
        "vhost-user-fs-pci",
        "vhost-user-fs-pci",
        "virtio-blk-pci",
        "virtio-net-pci",
    ]
    for number, device in enumerate(devices):
        arguments = device.arguments()
        assert arguments["bus"] == "hotplug0"
        assert arguments["addr"] == f"0.{number}"
        assert arguments["multifunction"] is True
    assert devices[3].arguments()["mac"] == "52:54:00:01:02:03"


def test_slot_has_no_devices_without_shares_disks_and_network() -> None:
    assert argv.plugged_devices(SETUP) == ()


def test_most_devices_of_the_slot_are_the_functions_0_to_7() -> None:
    setup = SETUP.replace(shares=tuple(Share(f"t{n}") for n in range(argv.MAX_PLUGGED)))
    addresses = [device.arguments()["addr"] for device in argv.plugged_devices(setup)]
    assert addresses == [f"0.{number}" for number in range(8)]


def test_template_has_the_devices_of_the_slot_on_its_command_line() -> None:
    expected = tuple(word for device in argv.plugged_devices(FULL) for word in device.words())
    assert template()[-len(expected) :] == expected


def test_commas_are_doubled_on_the_command_line_only() -> None:
    device = argv.plugged_devices(FULL)[1]
    assert device.arguments()["tag"] == "a,b"
    assert device.words() == (
        "-device",
        "vhost-user-fs-pci,bus=hotplug0,addr=0.1,multifunction=on,chardev=share1,tag=a,,b",
    )


def test_device_without_properties_is_its_driver() -> None:
    assert Device("virtio-rng").words() == ("-device", "virtio-rng")
    assert Device("virtio-rng").arguments() == {"driver": "virtio-rng"}
    assert Device("x", (("on", True), ("off", False))).words()[1] == "x,on=on,off=off"


def test_backends_of_the_slot_are_the_same_but_for_the_disks() -> None:
    for option in ("-chardev", "-netdev"):
        assert values(option, template()) == values(option, start())
    assert "socket,id=share1,fd=11" in values("-chardev", start())
    assert values("-netdev", start()) == ["user,id=net"]


def test_ports_are_published_by_the_machines_of_a_template_only() -> None:
    setup = FULL.replace(published=(PublishedPort("127.0.0.1", 8080, 80),))
    assert values("-netdev", template(setup)) == ["user,id=net"]
    assert values("-netdev", start(setup)) == ["user,id=net,hostfwd=tcp:127.0.0.1:8080-:80"]


def test_disks_of_a_template_are_empty() -> None:
    assert values("-drive", template()) == [
        "if=none,id=disk0,driver=null-co,read-zeroes=on,size=1M"
    ]
    assert "/srv" not in " ".join(template())
    assert values("-drive", start()) == [
        "if=none,id=disk0,format=raw,discard=unmap,werror=stop,file=/srv/a,,b.img"
    ]


@pytest.mark.parametrize("command", [template, start])
def test_generation_is_only_for_a_firmware_that_knows_it(
    command: Callable[..., tuple[str, ...]],
) -> None:
    device = "vmgenid,guid=00000000-0000-0000-0000-000000000001"
    assert device in values("-device", command())
    lean = command(FULL.replace(firmware="/qboot.rom"))
    assert "vmgenid" not in " ".join(lean)
    assert values("-bios", lean) == ["/qboot.rom"]


def test_machine_that_boots_has_no_device_of_a_template() -> None:
    words = " ".join(argv.command(FULL, FULL_CONNECTIONS))
    for word in ("vmgenid", "pcie-root-port", "hotplug", "-incoming", "memory-backend-file"):
        assert word not in words


def test_port_that_the_command_does_not_use_has_no_other_end() -> None:
    assert "null,id=initrd.stdin" in values("-chardev", start())


def test_network_device_without_an_address_has_that_of_qemu() -> None:
    (device,) = argv.plugged_devices(SETUP.replace(network=True))
    assert "mac" not in device.arguments()
    assert device.arguments()["romfile"] == ""
