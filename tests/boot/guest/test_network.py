"""`ip=` in virtual machines: addresses, routes, name resolution, and failures."""

import os
import re

import pytest

from testbed import assets
from tests.boot import images, machine
from tests.boot.conftest import write
from tests.boot.network import GREETING, GUEST_ADDRESS, SERVER_ADDRESS, Network, server

pytestmark = pytest.mark.boot

USER_NETWORK_CARD = (
    *("-netdev", "user,id=user"),
    *("-device", "virtio-net-pci,netdev=user,mac=52:54:00:00:00:0a"),
)
DISCOVER, REQUEST = 1, 3
SCRIPT_HEAD = "exec >/dev/ttyS1 2>&1\n"
SCRIPT_TAIL = "\necho '=== end'\necho o >/proc/sysrq-trigger\nsleep 60\n"


def boot(
    directory: str,
    ip: str,
    script: str = "",
    *,
    root: str | None = None,
    cards: tuple[str, ...] = USER_NETWORK_CARD,
    modules: tuple[str, ...] = ("--net",),
) -> machine.Boot:
    """Boot a read-only root and run a script in it; the report is the output of the script."""
    root = root or assets.busybox_root()
    kernel = assets.kernel("bookworm")
    image = images.make(kernel, f"{directory}/image", *modules)
    write(f"{directory}/share/script", SCRIPT_HEAD + script + SCRIPT_TAIL)
    shares = (machine.Share("rootfs", root), machine.Share("test", f"{directory}/share"))
    append = f"quiet mount-ro=test {ip} init=/bin/sh -- /run/mnt/test/script"
    vm = machine.Machine(kernel.image, append, image, shares, qemu_arguments=cards)
    return machine.boot(vm, f"{directory}/machine")


def make_root_with_etc_entry(directory: str, name: str, text: str = "", *, link: str = "") -> str:
    """Make a small root directory with one file, or one symlink, in /etc; return its path."""
    top = f"{directory}/root"
    assets.make_busybox_root(top)
    if link:
        os.symlink(link, f"{top}/etc/{name}")
    else:
        write(f"{top}/etc/{name}", text)
    return top


def test_dhcp_configures_a_read_only_root_without_resolv_conf(directory: str) -> None:
    root = make_root_with_etc_entry(directory, "kept", "as it was\n")
    with server() as port:
        script = f"""
echo '=== address'; ip -4 -o addr show dev eth0
echo '=== loopback'; ip -4 -o addr show dev lo
echo '=== route'; ip route
echo '=== resolv.conf'; cat /etc/resolv.conf
echo '=== kept'; cat /etc/kept; touch /etc/new 2>&1; ls -1 /etc
echo '=== greeting'; nc 10.0.2.2 {port} </dev/null
echo '=== environment'; env | grep ^ip"""
        section = boot(directory, "ip=dhcp", script, root=root).section
    assert "inet 10.0.2.15/24 brd 10.0.2.255 scope global eth0" in section("address")
    assert "inet 127.0.0.1/8" in section("loopback")
    assert section("route").startswith("default via 10.0.2.2 dev eth0")
    assert section("resolv.conf") == "nameserver 10.0.2.3"
    assert section("kept").splitlines() == [
        "as it was",
        "touch: /etc/new: Read-only file system",
        "kept",
        "resolv.conf",
    ]
    assert section("greeting") == GREETING.decode().strip()
    assert section("environment") == ""
    assert sorted(os.listdir(f"{root}/etc")) == ["kept"]


def test_dhcp_and_a_static_address_configure_the_devices_that_are_named(directory: str) -> None:
    static = "10.0.2.77::10.0.2.2:255.255.255.0:guest.example.net:eth1:off"
    script = """
echo '=== addresses'; ip -4 -o addr show
echo '=== route'; ip route
echo '=== mtu'; cat /sys/class/net/eth0/mtu /sys/class/net/eth1/mtu
echo '=== host name'; uname -n
echo '=== resolv.conf'; cat /etc/resolv.conf
echo '=== far'; getent ahostsv4 far.example.org
echo '=== nobody'; getent ahostsv4 nobody; echo $?"""
    with Network(directory, "wire") as network:
        cards = (*network.qemu_arguments("52:54:00:00:00:0b"), *USER_NETWORK_CARD)
        ip = f"ip={static} ip=:::::eth0:dhcp"
        section = boot(directory, ip, script, root=assets.debian_root(), cards=cards).section
    assert f"inet {GUEST_ADDRESS}/24 brd 10.9.0.255 scope global eth0" in section("addresses")
    assert "inet 10.0.2.77/24 brd 10.0.2.255 scope global eth1" in section("addresses")
    defaults = [line for line in section("route").splitlines() if line.startswith("default")]
    # The first gateway stays the default.
    assert [line.strip() for line in defaults] == ["default via 10.0.2.2 dev eth1"]
    assert section("mtu") == "1400\n1500"
    assert section("host name") == "guest"
    assert section("resolv.conf") == f"search example.net\nnameserver {SERVER_ADDRESS}"
    assert section("far").split()[0] == "192.0.2.7"
    assert section("nobody") == "2"
    assert network.dhcp_messages == [DISCOVER, DISCOVER, REQUEST]  # Network drops the first message


def test_dhcp_without_a_device_name_configures_the_first_device_with_an_offer(
    directory: str,
) -> None:
    root = make_root_with_etc_entry(
        directory, "resolv.conf", link="../run/systemd/resolve/stub-resolv.conf"
    )
    script = """
echo '=== addresses'; ip -4 -o addr show
echo '=== resolv.conf'; cat /etc/resolv.conf
echo '=== resolved'; cat /run/systemd/resolved.conf.d/*
echo '=== name'; nslookup far.example.org"""
    with Network(directory, "a", silent=True) as silent_network, Network(directory, "b") as network:
        cards = silent_network.qemu_arguments("52:54:00:00:00:0a")
        cards += network.qemu_arguments("52:54:00:00:00:0b")
        section = boot(directory, "ip=dhcp", script, root=root, cards=cards).section
    assert f"inet {GUEST_ADDRESS}/24" in section("addresses")
    assert section("resolv.conf") == f"search example.org\nnameserver {SERVER_ADDRESS}"
    assert section("resolved") == f"[Resolve]\nDNS={SERVER_ADDRESS}\nDomains=example.org"
    assert "192.0.2.7" in section("name")
    assert set(silent_network.dhcp_messages) == {DISCOVER}
    assert network.dhcp_messages[-1] == REQUEST


FAILURES = {
    "bad syntax": (
        "ip=dhpc",
        USER_NETWORK_CARD,
        ("--net",),
        "cannot understand the kernel command line: ip=dhpc: 'dhpc' is no way to get an address; "
        "write dhcp or off",
    ),
    "no network card": (
        "ip=dhcp initrd.timeout=1",
        (),
        ("--net",),
        "cannot configure the network: no network device after 1 s",
    ),
    "no module for the card": (
        "ip=dhcp",
        USER_NETWORK_CARD,
        (),
        "cannot configure the network: there is a network card, but no module virtio_net in the "
        "image\ninitrd: try: make the image with mkvirtinitrd --module virtio_net",
    ),
}


@pytest.mark.parametrize("case", FAILURES)
def test_network_failure_fails_the_boot_and_names_the_cause(case: str, directory: str) -> None:
    ip, cards, modules, message = FAILURES[case]
    failed = boot(directory, ip, cards=cards, modules=modules)
    console = re.sub(r"(?m)^\[ *[0-9.]+\] ", "", failed.console.replace("\r", ""))
    assert f"initrd: boot failed: {message}" in console
    assert "Traceback" not in console
    assert failed.report == ""
    assert failed.status == 0
