"""A command with a network: this machine's servers, and names, in a root that is read-only."""

import os
from pathlib import Path

import pytest

from initrd.host import vm
from testbed import assets
from tests.boot.network import GREETING, GUEST, OURS, Network, server

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
    """A root whose resolv.conf leads to a place that a running system would have."""
    path = tmp_path / "root"
    assets.make_busybox_root(str(path))
    os.symlink("../run/systemd/resolve/stub-resolv.conf", path / "etc/resolv.conf")
    return str(path)


def test_a_server_on_this_machines_loopback_is_reached_by_any_user(root: str) -> None:
    kernel = assets.kernel("bookworm")
    there = {"kernel": kernel.image, "modules": kernel.modules}
    with server() as port:
        words = ["sh", "-c", SCRIPT, "sh", str(port)]
        done = vm.run(root, words, net=True, user="1000:1000", text=True, **there)
    assert done.stderr == ""
    assert done.stdout == (
        f"{GREETING.decode()}1\n1\nnameserver 10.0.2.3\ntouch: /etc/new: Read-only file system\n"
    )


def test_names_are_found(root: str, tmp_path: Path) -> None:
    kernel = assets.kernel("bookworm")
    there = {"kernel": kernel.image, "modules": kernel.modules}
    script = "cat /etc/resolv.conf; nslookup far.example.org; ip -4 -o addr show dev eth0"
    with Network(str(tmp_path), "wire") as wire:
        card = wire.qemu_arguments("52:54:00:00:00:0a")
        words = ["sh", "-c", script]
        done = vm.run(root, words, append="ip=dhcp", qemu_arg=card, text=True, **there)
    assert done.stdout.startswith(f"search example.org\nnameserver {OURS}\n")
    assert "192.0.2.7" in done.stdout
    assert f"inet {GUEST}/24" in done.stdout
