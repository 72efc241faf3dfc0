"""A command with --net or ip=dhcp: connections to the host, and name resolution."""

import os
from pathlib import Path

import pytest

from initrd.host import vm
from testbed import assets
from tests.boot.network import GREETING, GUEST_ADDRESS, SERVER_ADDRESS, Network, server

pytestmark = pytest.mark.boot

SCRIPT = """
nc 10.0.2.2 $1 </dev/null
ip -4 -o addr show dev eth0 | grep -c 'inet 10.0.2.15/24'
ip route | grep -c '^default via 10.0.2.2'
cat /etc/resolv.conf
touch /etc/new 2>&1
"""


@pytest.fixture
def root(tmp_path: Path) -> str:
    """A root directory whose /etc/resolv.conf links to a file that only systemd creates."""
    path = tmp_path / "root"
    assets.make_busybox_root(str(path))
    os.symlink("../run/systemd/resolve/stub-resolv.conf", path / "etc/resolv.conf")
    return str(path)


def test_any_user_reaches_a_server_on_the_hosts_loopback_with_net_host(
    root: str, start: str
) -> None:
    kernel = assets.kernel("bookworm")
    kernel_options = {"kernel": kernel.image, "modules": kernel.modules}
    with server() as port:
        words = ["sh", "-c", SCRIPT, "sh", str(port)]
        options = {**kernel_options, "net": "host", "warm": start == "warm"}
        done = vm.run(root, words, user="1000:1000", text=True, **options)
    assert done.stderr == ""
    assert done.stdout == (
        f"{GREETING.decode()}1\n1\nnameserver 10.0.2.3\ntouch: /etc/new: Read-only file system\n"
    )


REFUSED = """
nc 10.0.2.2 $1 </dev/null
nslookup example.org
"""


def test_a_server_on_the_hosts_loopback_refuses_connections(root: str, start: str) -> None:
    kernel = assets.kernel("bookworm")
    kernel_options = {"kernel": kernel.image, "modules": kernel.modules}
    with server() as port:
        words = ["sh", "-c", REFUSED, "sh", str(port)]
        options = {**kernel_options, "net": True, "warm": start == "warm"}
        done = vm.run(root, words, text=True, **options)
    assert GREETING.decode() not in done.stdout
    assert "can't connect to remote host (10.0.2.2): Connection refused" in done.stderr
    assert "Server:\t\t10.0.2.3" in done.stdout  # it has answered, whatever the answer is


def test_host_names_are_resolved_through_dhcp_settings(root: str, tmp_path: Path) -> None:
    kernel = assets.kernel("bookworm")
    kernel_options = {"kernel": kernel.image, "modules": kernel.modules}
    script = "cat /etc/resolv.conf; nslookup far.example.org; ip -4 -o addr show dev eth0"
    with Network(str(tmp_path), "wire") as network:
        card = network.qemu_arguments("52:54:00:00:00:0a")
        words = ["sh", "-c", script]
        done = vm.run(root, words, append="ip=dhcp", qemu_arg=card, text=True, **kernel_options)
    assert done.stdout.startswith(f"search example.org\nnameserver {SERVER_ADDRESS}\n")
    assert "192.0.2.7" in done.stdout
    assert f"inet {GUEST_ADDRESS}/24" in done.stdout
