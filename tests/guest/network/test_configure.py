"""Configuring the network, with a network stack that only records the changes."""

import errno
import os
import subprocess
import sys
from typing import Any

import pytest

from initrd.guest.failure import BootError
from initrd.guest.log import Log
from initrd.guest.network.configure import NetworkSetup
from initrd.guest.network.ipconfig import parse_ip
from initrd.guest.network.resolv import ResolverSettings
from tests.fake_kernel import FakeKernel
from tests.guest.network.dhcp_server import (
    ACK,
    OFFER,
    addresses,
    datagram,
    option,
    options_of,
    reply,
)
from tests.guest.network.test_interfaces import interface

REPOSITORY = os.path.abspath(f"{__file__}/../../../..")
LEASE = addresses(1, "255.255.255.0") + addresses(3, "10.9.0.1") + addresses(6, "10.9.0.3")
LEASE += option(12, b"leased.example.org") + option(15, b"example.org") + option(51, b"\0\0\1\0")


class FakeStack:
    """Records the changes. Its packet socket answers every DHCP message with the options `lease`.

    Without `lease` there is no DHCP server. `errors` maps the name of a method to its errno.
    """

    def __init__(self, lease: bytes | None = LEASE, errors: dict[str, int] | None = None) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self.lease, self.errors = lease, errors or {}
        self.incoming: list[tuple[str, bytes]] = []
        self.kernel: FakeKernel | None = None

    def __getattr__(self, name: str) -> Any:
        def record(*arguments: Any, **keywords: Any) -> bool:
            if name in self.errors:
                raise OSError(self.errors[name], os.strerror(self.errors[name]))
            self.calls.append((name, *arguments, *keywords.values()))
            return True

        return record

    def open_packet_socket(self) -> "FakeStack":
        number = self.errors.get("open_packet_socket")
        if number:
            raise OSError(number, os.strerror(number))
        return self

    def __enter__(self) -> "FakeStack":
        return self

    def __exit__(self, *_: object) -> None:
        self.calls.append(("close_packet_socket",))

    def send(self, device: str, packet: bytes) -> None:
        message = packet[28:]
        if self.lease is not None:
            message_type = OFFER if options_of(message)[53] == b"\1" else ACK
            xid = int.from_bytes(message[4:8], "big")
            self.incoming.append(
                (device, datagram(reply(xid, message[28:34], message_type, options=self.lease)))
            )

    def receive(self, seconds: float) -> tuple[str, bytes] | None:
        if self.incoming:
            return self.incoming.pop(0)
        assert self.kernel
        self.kernel.sleep(seconds)
        return None


def configure(
    stack: FakeStack, *ip: str, more_interfaces: dict[str, str] | None = None
) -> ResolverSettings:
    """Configure a machine that has eth0 and `more_interfaces` with the values `ip` of `ip=`."""
    stack.kernel = FakeKernel(files={**interface("eth0"), **(more_interfaces or {})})
    log = Log(stack.kernel)  # type: ignore[arg-type]
    return NetworkSetup(5, stack.kernel, log, stack).configure(parse_ip(ip))  # type: ignore[arg-type]


def test_dhcp_lease_sets_address_route_mtu_and_names() -> None:
    stack = FakeStack(LEASE + option(26, b"\5\x78"))
    resolver = configure(stack, "dhcp")
    assert stack.calls == [
        ("bring_up", "lo"),
        ("bring_up", "eth0"),
        ("close_packet_socket",),
        ("set_mtu", "eth0", 1400),
        ("add_address", "eth0", "10.9.0.50", 24),
        ("add_gateway", "eth0", "10.9.0.1", False),
        ("set_hostname", "leased"),
    ]
    assert resolver == ResolverSettings(("10.9.0.3",), "example.org", "leased")


def test_fields_of_ip_take_precedence_over_the_lease() -> None:
    stack = FakeStack()
    resolver = configure(stack, "::10.9.7.7:255.255.0.0:vm.test:eth0:dhcp:9.9.9.9:1.1.1.1")
    assert stack.calls[-3:] == [
        ("add_address", "eth0", "10.9.0.50", 16),
        ("add_gateway", "eth0", "10.9.7.7", False),
        ("set_hostname", "vm"),
    ]
    assert resolver == ResolverSettings(("9.9.9.9", "1.1.1.1"), "test", "vm")


def test_static_address_sends_no_dhcp_message() -> None:
    stack = FakeStack()
    resolver = configure(stack, "10.0.2.15::10.0.2.2:255.255.255.0::eth0:off:10.0.2.3")
    assert stack.calls == [
        ("bring_up", "lo"),
        ("bring_up", "eth0"),
        ("add_address", "eth0", "10.0.2.15", 24),
        ("add_gateway", "eth0", "10.0.2.2", False),
    ]
    assert resolver == ResolverSettings(("10.0.2.3",))


def test_gateway_outside_the_network_of_the_address_gets_an_onlink_route() -> None:
    stack = FakeStack(addresses(1, "255.255.255.255") + addresses(3, "10.1.1.1"))
    configure(stack, "dhcp")
    assert ("add_gateway", "eth0", "10.1.1.1", True) in stack.calls


def test_static_address_without_gateway_adds_no_route() -> None:
    stack = FakeStack()
    configure(stack, "10.0.2.15")
    assert stack.calls[-1] == ("add_address", "eth0", "10.0.2.15", 8)


def test_two_interfaces_are_configured_in_the_order_of_the_command_line() -> None:
    stack = FakeStack()
    resolver = configure(
        stack, "10.8.0.2:::::eth1:off:10.8.0.1", ":::::eth0:dhcp", more_interfaces=interface("eth1")
    )
    assert [call[1] for call in stack.calls if call[0] == "add_address"] == ["eth1", "eth0"]
    assert resolver == ResolverSettings(("10.8.0.1", "10.9.0.3"), "example.org", "leased")


def test_static_address_without_device_is_refused_with_several_interfaces() -> None:
    stack = FakeStack()
    with pytest.raises(BootError, match=r"several: eth0, eth1\ntry: .* ip=10\.0\.2\.15:::::eth0"):
        configure(stack, "10.0.2.15", more_interfaces=interface("eth1"))
    assert stack.calls == [("bring_up", "lo")]


def test_missing_dhcp_server_fails_the_boot_with_a_hint() -> None:
    stack = FakeStack(lease=None)
    with pytest.raises(BootError) as caught:
        configure(stack, "dhcp")
    message = str(caught.value)
    expected = "cannot get an address by DHCP on eth0: no DHCP server answered within 5 s\n"
    assert message.startswith(expected)
    assert "-netdev user" in message
    assert ("close_packet_socket",) in stack.calls


# The method that fails: its errno, and the start of the message.
FAILURES = {
    "bring_up": (errno.ENODEV, "cannot bring the network device lo up: No such device"),
    "open_packet_socket": (
        errno.EAFNOSUPPORT,
        "cannot get an address by DHCP on eth0: Address family not",
    ),
    "set_mtu": (errno.EINVAL, "cannot set the MTU of eth0 to 1400: Invalid argument"),
    "add_address": (errno.ENODEV, "cannot give eth0 the address 10.9.0.50/24: No such device"),
    "add_gateway": (errno.ENETUNREACH, "cannot route through 10.9.0.1 on eth0: Network is unr"),
    "set_hostname": (errno.EPERM, "cannot set the host name leased: Operation not permitted"),
}


@pytest.mark.parametrize("method", FAILURES)
def test_error_message_names_the_change_that_the_kernel_refused(method: str) -> None:
    number, message = FAILURES[method]
    stack = FakeStack(LEASE + option(26, b"\5\x78"), {method: number})
    with pytest.raises(BootError) as caught:
        configure(stack, "dhcp")
    assert str(caught.value).startswith(message)


# Runs in a new interpreter, because this one has imported the network modules already.
IMPORT_SCRIPT = """
import sys
from initrd.init import Boot
from tests.fake_kernel import FakeKernel
kernel = FakeKernel(files={{"/proc/cmdline": {!r}}})
boot = Boot(kernel, [])
boot.read_options()
boot.configure_network()
boot.write_resolver_settings()
print(*sorted(name for name in sys.modules if "network" in name or "pyroute2" in name))
print("socket" in sys.modules)
"""


def modules_imported_by_boot(cmdline: str) -> list[str]:
    """Return the names of the network modules in one line, then whether socket is imported."""
    command = [sys.executable, "-c", IMPORT_SCRIPT.format(cmdline)]
    result = subprocess.run(command, cwd=REPOSITORY, check=True, capture_output=True, text=True)
    return result.stdout.splitlines()


@pytest.mark.parametrize("cmdline", ["rootfs=r", "rootfs=r initrd.ip=dhcp nfs.ip=dhcp eth0.ip"])
def test_boot_without_ip_imports_no_network_module(cmdline: str) -> None:
    assert modules_imported_by_boot(cmdline) == ["", "False"]


def test_boot_with_ip_off_imports_only_the_parser_of_ip() -> None:
    assert modules_imported_by_boot("ip=off")[0].split() == [
        "initrd.guest.network",
        "initrd.guest.network.ipconfig",
        "initrd.guest.network.ipv4",
    ]
