"""The network's story, on a stack that only records."""

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

TOP = os.path.abspath(f"{__file__}/../../../..")
LEASE = addresses(1, "255.255.255.0") + addresses(3, "10.9.0.1") + addresses(6, "10.9.0.3")
LEASE += option(12, b"leased.example.org") + option(15, b"example.org") + option(51, b"\0\0\1\0")


class FakeStack:
    """Records what is changed; its wire answers every question with `lease`, if there is one."""

    def __init__(self, lease: bytes | None = LEASE, errors: dict[str, int] | None = None) -> None:
        self.calls: list[tuple[Any, ...]] = []
        self.lease, self.errors = lease, errors or {}
        self.coming: list[tuple[str, bytes]] = []
        self.kernel: FakeKernel | None = None

    def __getattr__(self, name: str) -> Any:
        def record(*arguments: Any, **keywords: Any) -> bool:
            if name in self.errors:
                raise OSError(self.errors[name], os.strerror(self.errors[name]))
            self.calls.append((name, *arguments, *keywords.values()))
            return True

        return record

    def packet_socket(self) -> "FakeStack":
        if "wire" in self.errors:
            raise OSError(self.errors["wire"], os.strerror(self.errors["wire"]))
        return self

    def __enter__(self) -> "FakeStack":
        return self

    def __exit__(self, *_: object) -> None:
        self.calls.append(("close the wire",))

    def send(self, device: str, packet: bytes) -> None:
        message = packet[28:]
        if self.lease is not None:
            kind = OFFER if options_of(message)[53] == b"\1" else ACK
            xid = int.from_bytes(message[4:8], "big")
            self.coming.append(
                (device, datagram(reply(xid, message[28:34], kind, options=self.lease)))
            )

    def receive(self, seconds: float) -> tuple[str, bytes] | None:
        if self.coming:
            return self.coming.pop(0)
        assert self.kernel
        self.kernel.sleep(seconds)
        return None


def configure(stack: FakeStack, *ip: str, **files: str) -> ResolverSettings:
    every = interface("eth0") | interface("eth1") if "two" in files else interface("eth0")
    stack.kernel = FakeKernel(files=every)
    log = Log(stack.kernel)  # type: ignore[arg-type]
    return NetworkSetup(5, stack.kernel, log, stack).configure(parse_ip(ip))  # type: ignore[arg-type]


def test_dhcp_gives_everything() -> None:
    stack = FakeStack(LEASE + option(26, b"\5\x78"))
    names = configure(stack, "dhcp")
    assert stack.calls == [
        ("up", "lo"),
        ("up", "eth0"),
        ("close the wire",),
        ("set_mtu", "eth0", 1400),
        ("add_address", "eth0", "10.9.0.50", 24),
        ("add_gateway", "eth0", "10.9.0.1", False),
        ("set_hostname", "leased"),
    ]
    assert names == ResolverSettings(("10.9.0.3",), "example.org", "leased")


def test_what_ip_says_wins_over_dhcp() -> None:
    stack = FakeStack()
    names = configure(stack, "::10.9.7.7:255.255.0.0:vm.test:eth0:dhcp:9.9.9.9:1.1.1.1")
    assert stack.calls[-3:] == [
        ("add_address", "eth0", "10.9.0.50", 16),
        ("add_gateway", "eth0", "10.9.7.7", False),
        ("set_hostname", "vm"),
    ]
    assert names == ResolverSettings(("9.9.9.9", "1.1.1.1"), "test", "vm")


def test_a_static_address_asks_nobody() -> None:
    stack = FakeStack()
    names = configure(stack, "10.0.2.15::10.0.2.2:255.255.255.0::eth0:off:10.0.2.3")
    assert stack.calls == [
        ("up", "lo"),
        ("up", "eth0"),
        ("add_address", "eth0", "10.0.2.15", 24),
        ("add_gateway", "eth0", "10.0.2.2", False),
    ]
    assert names == ResolverSettings(("10.0.2.3",))


def test_a_gateway_outside_the_network_is_reached_on_the_link() -> None:
    stack = FakeStack(addresses(1, "255.255.255.255") + addresses(3, "10.1.1.1"))
    configure(stack, "dhcp")
    assert ("add_gateway", "eth0", "10.1.1.1", True) in stack.calls


def test_a_network_without_gateway_gets_no_route() -> None:
    stack = FakeStack()
    configure(stack, "10.0.2.15")
    assert stack.calls[-1] == ("add_address", "eth0", "10.0.2.15", 8)


def test_two_interfaces_are_configured_in_the_order_of_the_command_line() -> None:
    stack = FakeStack()
    names = configure(stack, "10.8.0.2:::::eth1:off:10.8.0.1", ":::::eth0:dhcp", two="")
    assert [call[1] for call in stack.calls if call[0] == "add_address"] == ["eth1", "eth0"]
    assert names == ResolverSettings(("10.8.0.1", "10.9.0.3"), "example.org", "leased")


def test_an_address_for_one_of_several_devices_needs_a_name() -> None:
    stack = FakeStack()
    with pytest.raises(BootError, match=r"several: eth0, eth1\ntry: .* ip=10\.0\.2\.15:::::eth0"):
        configure(stack, "10.0.2.15", two="")
    assert stack.calls == [("up", "lo")]


def test_no_lease_is_a_failure_that_says_what_to_try() -> None:
    stack = FakeStack(lease=None)
    with pytest.raises(BootError) as caught:
        configure(stack, "dhcp")
    message = str(caught.value)
    assert message.startswith("cannot get an address by DHCP on eth0: nobody answered within 5 s\n")
    assert "-netdev user" in message
    assert ("close the wire",) in stack.calls


BROKEN = {
    "up": (errno.ENODEV, "cannot bring the network device lo up: No such device"),
    "wire": (errno.EAFNOSUPPORT, "cannot get an address by DHCP on eth0: Address family not"),
    "set_mtu": (errno.EINVAL, "cannot set the MTU of eth0 to 1400: Invalid argument"),
    "add_address": (errno.ENODEV, "cannot give eth0 the address 10.9.0.50/24: No such device"),
    "add_gateway": (errno.ENETUNREACH, "cannot route through 10.9.0.1 on eth0: Network is unr"),
    "set_hostname": (errno.EPERM, "cannot set the host name leased: Operation not permitted"),
}


@pytest.mark.parametrize("call", BROKEN)
def test_what_the_kernel_refuses_is_named(call: str) -> None:
    number, message = BROKEN[call]
    stack = FakeStack(LEASE + option(26, b"\5\x78"), {call: number})
    with pytest.raises(BootError) as caught:
        configure(stack, "dhcp")
    assert str(caught.value).startswith(message)


# In an interpreter of its own, because this one has imported them for the tests above.
LOADED = """
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


def loaded(cmdline: str) -> list[str]:
    command = [sys.executable, "-c", LOADED.format(cmdline)]
    result = subprocess.run(command, cwd=TOP, check=True, capture_output=True, text=True)
    return result.stdout.splitlines()


@pytest.mark.parametrize("cmdline", ["rootfs=r", "rootfs=r initrd.ip=dhcp nfs.ip=dhcp eth0.ip"])
def test_without_ip_no_network_code_is_loaded(cmdline: str) -> None:
    assert loaded(cmdline) == ["", "False"]


def test_with_ip_off_only_its_syntax_is() -> None:
    assert loaded("ip=off")[0].split() == [
        "initrd.guest.network",
        "initrd.guest.network.ipconfig",
        "initrd.guest.network.ipv4",
    ]
