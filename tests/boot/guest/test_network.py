"""`ip=` in virtual machines: addresses, routes, names; and how there is none."""

import os
import re

import pytest

from testbed import assets
from tests.boot import images, machine
from tests.boot.conftest import write
from tests.boot.network import GREETING, GUEST, OURS, Network, server

pytestmark = pytest.mark.boot

USER = ("-netdev", "user,id=user", "-device", "virtio-net-pci,netdev=user,mac=52:54:00:00:00:0a")
DISCOVER, REQUEST = 1, 3
BEFORE = "exec >/dev/ttyS1 2>&1\n"
AFTER = "\necho '=== end'\necho o >/proc/sysrq-trigger\nsleep 60\n"


def boot(
    directory: str,
    ip: str,
    script: str = "",
    *,
    root: str | None = None,
    cards: tuple[str, ...] = USER,
    modules: tuple[str, ...] = ("--net",),
) -> machine.Boot:
    """Boot a root, read-only, and run a script in it; what that says is the report."""
    root = root or assets.busybox_root()
    kernel = assets.kernel("bookworm")
    image = images.make(kernel, f"{directory}/image", *modules)
    write(f"{directory}/share/script", BEFORE + script + AFTER)
    shares = (machine.Share("rootfs", root), machine.Share("test", f"{directory}/share"))
    append = f"quiet mount-ro=test {ip} init=/bin/sh -- /run/mnt/test/script"
    it = machine.Machine(kernel.image, append, image, shares, qemu_arguments=cards)
    return machine.boot(it, f"{directory}/machine")


def root_with(directory: str, name: str, text: str = "", *, link: str = "") -> str:
    """A small root with one file, or one link, in /etc."""
    top = f"{directory}/root"
    assets.make_busybox_root(top)
    if link:
        os.symlink(link, f"{top}/etc/{name}")
    else:
        write(f"{top}/etc/{name}", text)
    return top


def test_dhcp_in_a_read_only_root_without_resolv_conf(directory: str) -> None:
    root = root_with(directory, "kept", "as it was\n")
    with server() as port:
        script = f"""
echo '=== address'; ip -4 -o addr show dev eth0
echo '=== loopback'; ip -4 -o addr show dev lo
echo '=== route'; ip route
echo '=== resolv.conf'; cat /etc/resolv.conf
echo '=== kept'; cat /etc/kept; touch /etc/new 2>&1; ls -1 /etc
echo '=== greeting'; nc 10.0.2.2 {port} </dev/null
echo '=== environment'; env | grep ^ip"""
        found = boot(directory, "ip=dhcp", script, root=root).section
    assert "inet 10.0.2.15/24 brd 10.0.2.255 scope global eth0" in found("address")
    assert "inet 127.0.0.1/8" in found("loopback")
    assert found("route").startswith("default via 10.0.2.2 dev eth0")
    assert found("resolv.conf") == "nameserver 10.0.2.3"
    assert found("kept").splitlines() == [
        "as it was",
        "touch: /etc/new: Read-only file system",
        "kept",
        "resolv.conf",
    ]
    assert found("greeting") == GREETING.decode().strip()
    assert found("environment") == ""
    assert sorted(os.listdir(f"{root}/etc")) == ["kept"]


def test_one_device_by_dhcp_and_one_static_by_their_names(directory: str) -> None:
    static = "10.0.2.77::10.0.2.2:255.255.255.0:guest.example.net:eth1:off"
    script = """
echo '=== addresses'; ip -4 -o addr show
echo '=== route'; ip route
echo '=== mtu'; cat /sys/class/net/eth0/mtu /sys/class/net/eth1/mtu
echo '=== host name'; uname -n
echo '=== resolv.conf'; cat /etc/resolv.conf
echo '=== far'; getent ahostsv4 far.example.org
echo '=== nobody'; getent ahostsv4 nobody; echo $?"""
    with Network(directory, "wire") as wire:
        cards = (*wire.qemu_arguments("52:54:00:00:00:0b"), *USER)
        ip = f"ip={static} ip=:::::eth0:dhcp"
        found = boot(directory, ip, script, root=assets.debian_root(), cards=cards).section
    assert f"inet {GUEST}/24 brd 10.9.0.255 scope global eth0" in found("addresses")
    assert "inet 10.0.2.77/24 brd 10.0.2.255 scope global eth1" in found("addresses")
    defaults = [line for line in found("route").splitlines() if line.startswith("default")]
    # The first gateway stays the default.
    assert [line.strip() for line in defaults] == ["default via 10.0.2.2 dev eth1"]
    assert found("mtu") == "1400\n1500"
    assert found("host name") == "guest"
    assert found("resolv.conf") == f"search example.net\nnameserver {OURS}"
    assert found("far").split()[0] == "192.0.2.7"
    assert found("nobody") == "2"
    assert wire.asked == [DISCOVER, DISCOVER, REQUEST]  # the first was lost


def test_the_first_device_that_is_offered_an_address_is_it(directory: str) -> None:
    root = root_with(directory, "resolv.conf", link="../run/systemd/resolve/stub-resolv.conf")
    script = """
echo '=== addresses'; ip -4 -o addr show
echo '=== resolv.conf'; cat /etc/resolv.conf
echo '=== resolved'; cat /run/systemd/resolved.conf.d/*
echo '=== name'; nslookup far.example.org"""
    with Network(directory, "a", silent=True) as silent, Network(directory, "b") as wire:
        cards = silent.qemu_arguments("52:54:00:00:00:0a")
        cards += wire.qemu_arguments("52:54:00:00:00:0b")
        found = boot(directory, "ip=dhcp", script, root=root, cards=cards).section
    assert f"inet {GUEST}/24" in found("addresses")
    assert found("resolv.conf") == f"search example.org\nnameserver {OURS}"
    assert found("resolved") == f"[Resolve]\nDNS={OURS}\nDomains=example.org"
    assert "192.0.2.7" in found("name")
    assert set(silent.asked) == {DISCOVER}
    assert wire.asked[-1] == REQUEST


FAILURES = {
    "bad syntax": (
        "ip=dhpc",
        USER,
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
        USER,
        (),
        "cannot configure the network: there is a network card, but no module virtio_net in the "
        "image\ninitrd: try: make the image with mkvirtinitrd --module virtio_net",
    ),
}


@pytest.mark.parametrize("case", FAILURES)
def test_no_network_is_a_failed_boot_that_says_why(case: str, directory: str) -> None:
    ip, cards, modules, message = FAILURES[case]
    it = boot(directory, ip, cards=cards, modules=modules)
    console = re.sub(r"(?m)^\[ *[0-9.]+\] ", "", it.console.replace("\r", ""))
    assert f"initrd: boot failed: {message}" in console
    assert "Traceback" not in console
    assert it.report == ""
    assert it.status == 0
