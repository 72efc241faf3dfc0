"""The bytes of the rtnetlink messages, and the modules that pyroute2 imports to encode them."""

import subprocess
import sys

import pytest

from initrd.guest.network import netlink

# pyroute2 is in the pinned environment only; unit tests run with any Python that has pytest.
pytestmark = pytest.mark.built

HEADER = "14 00 05 06 01 00 00 00 00 00 00 00"  # RTM_NEWADDR; request, ack, excl, create


def encode_to_hex(message: object) -> str:
    message.encode()  # type: ignore[attr-defined]
    return bytes(message.data).hex(" ")  # type: ignore[attr-defined]


def test_address_message_has_a_broadcast_address_and_no_lifetime() -> None:
    assert encode_to_hex(netlink.address_message(2, "10.0.2.15", 24)) == " ".join(
        (
            "30 00 00 00",
            HEADER,
            "02 18 00 00 02 00 00 00",  # AF_INET, 24 bits, interface 2
            "08 00 02 00 0a 00 02 0f",  # IFA_LOCAL
            "08 00 01 00 0a 00 02 0f",  # IFA_ADDRESS
            "08 00 04 00 0a 00 02 ff",  # IFA_BROADCAST
        )
    )


@pytest.mark.parametrize(("onlink", "flags"), [(False, "00"), (True, "04")])
def test_gateway_message_adds_a_default_route(onlink: bool, flags: str) -> None:
    assert encode_to_hex(netlink.gateway_message(2, "10.0.2.2", onlink=onlink)) == " ".join(
        (
            "2c 00 00 00",
            HEADER.replace("14", "18", 1),  # RTM_NEWROUTE
            f"02 00 00 00 fe 03 00 01 {flags} 00 00 00",  # AF_INET, table main, proto boot, unicast
            "08 00 05 00 0a 00 02 02",  # RTA_GATEWAY
            "08 00 04 00 02 00 00 00",  # RTA_OIF
        )
    )


def test_only_the_message_modules_of_pyroute2_are_imported() -> None:
    script = (
        "import sys; from initrd.guest.network import netlink;"
        "netlink.address_message(1, '10.0.0.1', 8);"
        "netlink.gateway_message(1, '10.0.0.2', onlink=False);"
        "print(*sorted(sys.modules))"
    )
    command = [
        sys.executable,
        "-I",
        "-S",
        "-c",
        f"import sys; sys.path[:] = {sys.path!r}; {script}",
    ]
    imported = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
    assert {name for name in imported if name.startswith("pyroute2")} == {
        "pyroute2",
        "pyroute2.common",
        "pyroute2.netlink",
        "pyroute2.netlink.exceptions",
        "pyroute2.netlink.rtnl",
        "pyroute2.netlink.rtnl.ifaddrmsg",
        "pyroute2.netlink.rtnl.rtmsg",
    }
    assert not {"asyncio", "ctypes", "multiprocessing", "ssl", "subprocess"} & set(imported)


def test_error_for_a_missing_package_names_the_package() -> None:
    with pytest.raises(ModuleNotFoundError, match="no_such_package"):
        netlink.bare_package("no_such_package")


# Runs what configures a network after the import of a template, and prints what that has imported.
LATE_IMPORTS_PROGRAM = """
import struct, sys
from initrd.guest.command.resume import _import_network
_import_network()
imported = set(sys.modules)

from initrd.guest.network import ipconfig, netlink, resolv
from initrd.guest.network.configure import NetworkSetup

class FakeSocket:
    def __init__(self, *arguments): pass
    def __enter__(self): return self
    def __exit__(self, *arguments): pass
    def setsockopt(self, *arguments): pass
    def send(self, data): self.request = bytes(data)
    def recv(self, size):
        error = b"no such device\\0\\0"
        attribute = struct.pack("=HH16s", 20, 1, error)
        head = struct.pack("=IHHIIi", 56, 2, 0x300, 1, 0, -answers.pop(0))
        return head + self.request[:16] + attribute

netlink.socket.socket = FakeSocket
answers = [0, 17, 0, 19]
ipconfig.parse_ip((":::::eth1:dhcp", "10.0.2.15::10.0.2.2:255.255.255.0::eth0:off:10.0.2.3"))
assert netlink.send(netlink.address_message(2, "10.0.2.15", 24))
assert not netlink.send(netlink.address_message(2, "10.0.2.15", 24))
assert netlink.send(netlink.gateway_message(2, "10.0.2.2", onlink=True))
try:
    netlink.send(netlink.gateway_message(2, "10.0.2.2", onlink=False))
except OSError as error:
    assert error.errno == 19, error
print(*sorted(set(sys.modules) - imported))
"""


def test_a_template_has_imported_all_that_configuring_a_network_needs() -> None:
    program = f"import sys; sys.path[:] = {sys.path!r}; {LATE_IMPORTS_PROGRAM}"
    command = [sys.executable, "-I", "-S", "-c", program]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("\n", "")
