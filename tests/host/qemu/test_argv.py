"""QEMU's command line, one group of options after the other."""

import itertools

import pytest

from initrd.host.qemu import argv
from initrd.host.qemu.arch import find_arch
from initrd.host.qemu.argv import (
    STDIO_STREAM,
    TERMINAL_STREAM,
    Connections,
    Disk,
    Hardware,
    PublishedPort,
    Setup,
    fd_stream,
    path_stream,
)
from initrd.host.qemu.seccomp import SANDBOX
from initrd.host.system.files import OpenFile
from initrd.options import Share

HARDWARE = Hardware(find_arch("x86_64"), "tcg", memory=1 << 30, cpus=1)
SETUP = Setup(
    "qemu",
    HARDWARE,
    kernel=OpenFile("/boot/vmlinuz"),
    initrd=OpenFile("/cache/image", 9),
    cmdline="console=ttyS0 init=/bin/sh",
)
CONNECTIONS = Connections(fd_stream(5))


def values(option: str, setup: Setup, connections: Connections = CONNECTIONS) -> list[str]:
    """Return the values of all uses of an option on the command line."""
    words = argv.command(setup, connections)
    return [value for name, value in itertools.pairwise(words) if name == option]


def test_machine_has_no_default_devices() -> None:
    words = argv.command(SETUP, CONNECTIONS)
    assert {"-nodefaults", "-no-user-config", "-no-reboot"} < set(words)
    assert values("-nic", SETUP) == ["none"]
    assert values("-display", SETUP) == ["none"]
    assert values("-device", SETUP) == []


@pytest.mark.parametrize(
    ("setup", "expected"),
    [
        pytest.param(SETUP.replace(sandbox=True), [SANDBOX[1]], id="built in"),
        pytest.param(SETUP, [], id="not built in"),
        pytest.param(
            SETUP.replace(sandbox=True, extra=("-sandbox", "off")), ["off"], id="of the user"
        ),
    ],
)
def test_qemu_filters_its_system_calls(setup: Setup, expected: list[str]) -> None:
    assert values("-sandbox", setup) == expected


def test_memory_is_shared_so_that_virtiofsd_can_map_it() -> None:
    setup = SETUP.replace(hardware=HARDWARE.replace(memory=512 << 20))
    assert values("-m", setup) == ["size=536870912B"]
    assert values("-object", setup) == ["memory-backend-memfd,id=memory,size=536870912,share=on"]
    assert all("memory-backend=memory" in machine for machine in values("-machine", setup))


@pytest.mark.parametrize(("accelerator", "cpu"), [("kvm", "host"), ("tcg", "max,-erms,-fsrm")])
def test_processor_model_fits_the_accelerator(accelerator: str, cpu: str) -> None:
    setup = SETUP.replace(hardware=HARDWARE.replace(accelerator=accelerator))
    assert (values("-accel", setup), values("-cpu", setup)) == ([accelerator], [cpu])


def test_number_of_processors_is_the_value_of_smp() -> None:
    assert values("-smp", SETUP.replace(hardware=HARDWARE.replace(cpus=2))) == ["2"]


def test_machine_type_of_the_user_keeps_the_shared_memory() -> None:
    setup = SETUP.replace(hardware=HARDWARE.replace(machine="pc,hpet=off"))
    assert values("-machine", setup) == ["pc,hpet=off,memory-backend=memory"]


def test_commas_of_kernel_initrd_and_append_are_not_doubled() -> None:
    # These three options take no list of properties.
    setup = SETUP.replace(
        kernel=OpenFile("/a,b/vmlinuz"), initrd=OpenFile("/c,d/image"), cmdline="ip=1,2 init=/x"
    )
    assert values("-kernel", setup) == ["/a,b/vmlinuz"]
    assert values("-initrd", setup) == ["/c,d/image"]
    assert values("-append", setup) == ["ip=1,2 init=/x"]


def test_open_files_are_inherited_or_named_by_path() -> None:
    setup = SETUP.replace(kernel=OpenFile("/cache/vmlinux", 8))
    assert values("-kernel", setup) + values("-initrd", setup) == [
        "/proc/self/fd/8",
        "/proc/self/fd/9",
    ]
    assert setup.descriptors == (8, 9)
    by_path = setup.by_path()
    assert values("-kernel", by_path) + values("-initrd", by_path) == [
        "/cache/vmlinux",
        "/cache/image",
    ]
    assert by_path.descriptors == ()


def test_console_is_the_serial_port() -> None:
    assert values("-chardev", SETUP) == ["socket,id=console,fd=5"]
    assert values("-serial", SETUP) == ["chardev:console"]
    assert values("-mon", SETUP) == []


@pytest.mark.parametrize(
    ("stream", "backend"),
    [
        (STDIO_STREAM, "stdio,id=console,signal=off"),
        (TERMINAL_STREAM, "stdio,id=console,signal=off,mux=on"),
    ],
)
def test_console_is_never_shared_with_the_monitor(stream: str, backend: str) -> None:
    connections = CONNECTIONS.replace(console=stream)
    assert values("-chardev", SETUP, connections) == [backend]
    assert values("-mon", SETUP, connections) == []


def test_share_is_a_device_with_its_tag() -> None:
    setup = SETUP.replace(shares=(Share("rootfs"),))
    connections = CONNECTIONS.replace(shares=(fd_stream(7),))
    assert "socket,id=share0,fd=7" in values("-chardev", setup, connections)
    assert values("-device", setup, connections) == [
        "vhost-user-fs-pci,addr=02.0,multifunction=on,chardev=share0,tag=rootfs"
    ]


def test_commas_are_doubled_in_the_values_of_properties() -> None:
    setup = SETUP.replace(shares=(Share("a,id=b"),), disks=(Disk("/srv/a,b.img"),))
    connections = CONNECTIONS.replace(shares=(path_stream("/tmp/x,y.sock"),))
    assert "socket,id=share0,path=/tmp/x,,y.sock" in values("-chardev", setup, connections)
    assert values("-device", setup, connections)[0].endswith("tag=a,,id=b")
    assert values("-drive", setup, connections)[0].endswith("file=/srv/a,,b.img")


def test_forty_shares_have_addresses_of_their_own_on_the_pci_bus() -> None:
    setup = SETUP.replace(shares=tuple(Share(f"tag{number}") for number in range(40)))
    connections = CONNECTIONS.replace(shares=tuple(map(fd_stream, range(40))))
    devices = values("-device", setup, connections)
    addresses = [device.split("addr=")[1].split(",")[0] for device in devices]
    assert len(set(addresses)) == 40
    assert addresses[7:10] == ["02.7", "03.0", "03.1"]
    firsts = [device for device in devices if "multifunction=on" in device]
    assert [address[-1] for address in addresses].count("0") == len(firsts)


def test_ports_have_names_and_numbers_from_1() -> None:
    setup = SETUP.replace(ports=("initrd.control", "initrd.stdin"))
    connections = CONNECTIONS.replace(ports=(fd_stream(3), fd_stream(4)))
    assert values("-device", setup, connections) == [
        "virtio-serial-pci,addr=02.0,multifunction=on,max_ports=3",
        "virtserialport,nr=1,chardev=initrd.control,name=initrd.control",
        "virtserialport,nr=2,chardev=initrd.stdin,name=initrd.stdin",
    ]


def test_network_device_loads_no_option_rom() -> None:
    setup = SETUP.replace(network=True)
    assert values("-netdev", setup) == ["user,id=net"]
    assert values("-device", setup)[0].endswith("netdev=net,romfile=")


def test_published_ports_are_forwarded_by_the_network() -> None:
    ports = (PublishedPort("127.0.0.1", 8080, 80), PublishedPort("0.0.0.0", 22, 22))
    assert values("-netdev", SETUP.replace(network=True, published=ports)) == [
        "user,id=net,hostfwd=tcp:127.0.0.1:8080-:80,hostfwd=tcp:0.0.0.0:22-:22"
    ]


def test_disks_are_raw_and_a_read_only_one_is_opened_read_only() -> None:
    setup = SETUP.replace(disks=(Disk("/a"), Disk("/b", writable=False)))
    assert values("-drive", setup) == [
        "if=none,id=disk0,format=raw,discard=unmap,werror=stop,file=/a",
        "if=none,id=disk1,format=raw,readonly=on,file=/b",
    ]
    assert [device.split(",")[-1] for device in values("-device", setup)] == [
        "drive=disk0",
        "drive=disk1",
    ]
    found = [argv.find_disk(drive, setup.disks) for drive in ("disk0", "disk1", "disk2", "")]
    assert found == [*setup.disks, None, None]


@pytest.mark.parametrize(
    ("disks", "needed"),
    [
        pytest.param((), False, id="no disk"),
        pytest.param((Disk("/a", writable=False),), False, id="read-only"),
        pytest.param((Disk("/a", writable=False), Disk("/b")), True, id="writable"),
        pytest.param((Disk("/a", overlay=True),), True, id="overlay"),
    ],
)
def test_only_a_machine_with_a_writable_disk_needs_a_monitor(
    disks: tuple[Disk, ...], *, needed: bool
) -> None:
    assert SETUP.replace(disks=disks).needs_monitor is needed


def test_machine_waits_for_gdb_only_on_request() -> None:
    connections = CONNECTIONS.replace(gdb=fd_stream(8))
    assert "-S" not in argv.command(SETUP, CONNECTIONS)
    assert "-S" in argv.command(SETUP, connections)
    assert values("-gdb", SETUP, connections) == ["chardev:gdb"]
    assert "socket,id=gdb,fd=8,server=on,wait=off" in values("-chardev", SETUP, connections)


def test_monitor_is_there_only_on_request() -> None:
    connections = CONNECTIONS.replace(monitor=fd_stream(8))
    assert values("-mon", SETUP) == []
    assert values("-mon", SETUP, connections) == ["chardev=qmp,mode=control"]


def test_words_of_the_user_come_last() -> None:
    assert argv.command(SETUP.replace(extra=("-s", "-S")), CONNECTIONS)[-2:] == ("-s", "-S")


def test_devices_of_other_architectures_have_another_transport() -> None:
    hardware = HARDWARE.replace(arch=find_arch("s390x"))
    setup = SETUP.replace(hardware=hardware, shares=(Share("rootfs"),))
    connections = CONNECTIONS.replace(shares=(fd_stream(7),))
    assert values("-device", setup, connections) == ["vhost-user-fs-ccw,chardev=share0,tag=rootfs"]
