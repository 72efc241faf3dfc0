"""QEMU's command line, group by group."""

import itertools

import pytest

from initrd.host.qemu import argv
from initrd.host.qemu.arch import find_arch
from initrd.host.qemu.argv import Boot, Console, Disk, Filesystem, Hardware, Port, Setup

BOOT = Boot("/boot/vmlinuz", "/proc/self/fd/9", "console=ttyS0 init=/bin/sh")
SETUP = Setup("qemu", Hardware(find_arch("x86_64")), BOOT, Console(argv.descriptor(5)))


def values(option: str, setup: Setup) -> list[str]:
    words = argv.command(setup)
    return [value for name, value in itertools.pairwise(words) if name == option]


def test_the_machine_has_nothing_that_was_not_asked_for() -> None:
    words = argv.command(SETUP)
    assert {"-nodefaults", "-no-user-config", "-no-reboot"} < set(words)
    assert values("-nic", SETUP) == ["none"]
    assert values("-display", SETUP) == ["none"]
    assert values("-device", SETUP) == []


def test_memory_is_shared_so_that_virtiofsd_can_map_it() -> None:
    setup = SETUP.replace(hardware=SETUP.hardware.replace(memory=512 << 20))
    assert values("-m", setup) == ["size=536870912B"]
    assert values("-object", setup) == ["memory-backend-memfd,id=memory,size=536870912,share=on"]
    assert all("memory-backend=memory" in machine for machine in values("-machine", setup))


@pytest.mark.parametrize(("accelerator", "cpu"), [("kvm", "host"), ("tcg", "max,-erms,-fsrm")])
def test_the_processor_fits_the_accelerator(accelerator: str, cpu: str) -> None:
    setup = SETUP.replace(hardware=SETUP.hardware.replace(accelerator=accelerator))
    assert (values("-accel", setup), values("-cpu", setup)) == ([accelerator], [cpu])


def test_processors_are_counted() -> None:
    assert values("-smp", SETUP.replace(hardware=SETUP.hardware.replace(cpus=2))) == ["2"]


def test_a_machine_of_the_users_own_still_has_our_memory() -> None:
    setup = SETUP.replace(hardware=SETUP.hardware.replace(machine="pc,hpet=off"))
    assert values("-machine", setup) == ["pc,hpet=off,memory-backend=memory"]


def test_paths_and_command_line_go_in_as_they_are() -> None:
    # These three are no lists of options: commas are not doubled there.
    boot = Boot("/a,b/vmlinuz", "/c,d/image", "ip=1,2 init=/x")
    setup = SETUP.replace(boot=boot)
    assert values("-kernel", setup) == ["/a,b/vmlinuz"]
    assert values("-initrd", setup) == ["/c,d/image"]
    assert values("-append", setup) == ["ip=1,2 init=/x"]


def test_the_console_is_the_serial_port() -> None:
    assert values("-chardev", SETUP) == ["socket,id=console,fd=5"]
    assert values("-serial", SETUP) == ["chardev:console"]
    assert values("-mon", SETUP) == []


def test_on_a_terminal_the_console_has_qemus_keys() -> None:
    setup = SETUP.replace(console=Console(argv.descriptor(5), menu=True))
    assert values("-chardev", setup) == ["socket,id=console,fd=5,mux=on"]
    assert values("-mon", setup) == ["chardev=console,mode=readline"]


def test_a_share_is_a_device_with_its_tag() -> None:
    setup = SETUP.replace(filesystems=(Filesystem("rootfs", argv.descriptor(7)),))
    assert "socket,id=share0,fd=7" in values("-chardev", setup)
    assert values("-device", setup) == [
        "vhost-user-fs-pci,addr=02.0,multifunction=on,chardev=share0,tag=rootfs"
    ]


def test_commas_are_doubled_where_they_separate_options() -> None:
    setup = SETUP.replace(
        filesystems=(Filesystem("a,id=b", argv.path("/tmp/x,y.sock")),),
        disks=(Disk("/srv/a,b.img"),),
    )
    assert "socket,id=share0,path=/tmp/x,,y.sock" in values("-chardev", setup)
    assert values("-device", setup)[0].endswith("tag=a,,id=b")
    assert values("-drive", setup)[0].endswith("file=/srv/a,,b.img")


def test_many_shares_find_room_on_the_bus() -> None:
    shares = tuple(Filesystem(f"tag{number}", argv.descriptor(number)) for number in range(40))
    devices = values("-device", SETUP.replace(filesystems=shares))
    addresses = [device.split("addr=")[1].split(",")[0] for device in devices]
    assert len(set(addresses)) == 40
    assert addresses[7:10] == ["02.7", "03.0", "03.1"]
    firsts = [device for device in devices if "multifunction=on" in device]
    assert [address[-1] for address in addresses].count("0") == len(firsts)


def test_ports_are_named_and_none_is_the_first() -> None:
    ports = (Port("initrd.control", argv.descriptor(3)), Port("initrd.stdin", argv.descriptor(4)))
    devices = values("-device", SETUP.replace(ports=ports))
    assert devices == [
        "virtio-serial-pci,addr=02.0,multifunction=on,max_ports=3",
        "virtserialport,nr=1,chardev=initrd.control,name=initrd.control",
        "virtserialport,nr=2,chardev=initrd.stdin,name=initrd.stdin",
    ]


def test_the_network_loads_no_option_rom() -> None:
    setup = SETUP.replace(network=True)
    assert values("-netdev", setup) == ["user,id=net"]
    assert values("-device", setup)[0].endswith("netdev=net,romfile=")


def test_a_monitor_only_on_request() -> None:
    setup = SETUP.replace(monitor=argv.descriptor(8))
    assert values("-mon", SETUP) == []
    assert values("-mon", setup) == ["chardev=qmp,mode=control"]


def test_the_users_words_come_last() -> None:
    assert argv.command(SETUP.replace(extra=("-s", "-S")))[-2:] == ("-s", "-S")


def test_other_architectures_attach_devices_in_their_way() -> None:
    hardware = Hardware(find_arch("s390x"))
    share = Filesystem("rootfs", argv.descriptor(7))
    setup = SETUP.replace(hardware=hardware, filesystems=(share,))
    assert values("-device", setup) == ["vhost-user-fs-ccw,chardev=share0,tag=rootfs"]
