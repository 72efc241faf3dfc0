"""Parsing `ip=` in the syntax of the kernel's nfsroot.rst, and refusing invalid values."""

import pytest

from initrd.guest.network import ipv4
from initrd.guest.network.ipconfig import InterfaceRequest as Request
from initrd.guest.network.ipconfig import parse_ip
from initrd.options import CmdlineError

VALID = {
    "dhcp": Request(),
    "on": Request(),
    "any": Request(),
    "::::::dhcp": Request(),
    "::::::": Request(),
    ":::::eth0": Request(device="eth0"),
    ":::::eth0:dhcp": Request(device="eth0"),
    "::::guest.example.org:eth0:on": Request("eth0", hostname="guest", domain="example.org"),
    "::10.0.0.1:255.255.255.0:::dhcp:8.8.4.4": Request(
        prefix=24, gateway="10.0.0.1", dns=("8.8.4.4",)
    ),
    "dhcp,1,abc": Request(client_id=b"\x01abc"),
    ":::::eth1:dhcp,255,a,b": Request(device="eth1", client_id=b"\xffa,b"),
    "10.0.2.15": Request(address="10.0.2.15", prefix=8),
    "172.16.0.9:": Request(address="172.16.0.9", prefix=16),
    "192.168.1.7::192.168.1.1": Request(address="192.168.1.7", prefix=24, gateway="192.168.1.1"),
    "10.0.2.15:10.0.2.9:10.0.2.2:255.255.255.0:vm:eth0:off:10.0.2.3:1.1.1.1:10.0.2.4": Request(
        "eth0", "10.0.2.15", 24, "10.0.2.2", ("10.0.2.3", "1.1.1.1"), "vm"
    ),
    "10.0.2.15:::::eth0:any": Request("eth0", "10.0.2.15", 8),
    "10.0.2.15::::vm:eth0:none:::": Request("eth0", "10.0.2.15", 8, hostname="vm"),
    "10.0.2.15:::255.255.255.252::e:off::9.9.9.9": Request("e", "10.0.2.15", 30, dns=("9.9.9.9",)),
    "10.1.1.1::10.9.9.9:255.255.255.255": Request("", "10.1.1.1", 32, "10.9.9.9"),
}


@pytest.mark.parametrize("text", VALID)
def test_valid_ip_is_parsed(text: str) -> None:
    assert parse_ip((text,)) == (VALID[text],)


@pytest.mark.parametrize("text", ["off", "none"])
def test_ip_off_configures_no_interface(text: str) -> None:
    assert parse_ip((text,)) == ()


def test_several_ip_options_configure_one_device_each() -> None:
    interfaces = parse_ip((":::::eth1:dhcp", "10.0.0.2:::::eth0:off"))
    assert interfaces == (Request("eth1"), Request("eth0", "10.0.0.2", 8))


INVALID = {
    "dhpc": "'dhpc' is no way to get an address; write dhcp or off",
    "DHCP": "no way to get an address",
    "dhcp6": "no way to get an address",
    "rarp": "rarp is not supported; write dhcp",
    ":::::eth0:bootp": "bootp is not supported",
    "both": "both is not supported",
    "eth0:dhcp": "the device is the sixth field; write ip=:::::eth0:dhcp",
    "eth0:off": "the device is the sixth field",
    "eth0": "'eth0' is no way to get an address",
    "10.0.2": "client '10.0.2' is not the IPv4 address of a host",
    "10.0.2.256": "client '10.0.2.256' is not",
    "10.0.2.015": "client '10.0.2.015' is not",
    "10.0.2.-1": "client '10.0.2.-1' is not",
    "10.0.2.1\u0665": "is not the IPv4 address",
    "10..2.15": "client '10..2.15' is not",
    "0.0.0.0": "client '0.0.0.0' is not",
    "0.255.255.255": "client '0.255.255.255' is not",
    "224.0.0.0": "client '224.0.0.0' is not",
    "224.0.0.1": "client '224.0.0.1' is not",
    "255.255.255.255": "client '255.255.255.255' is not",
    "10.0.2.15/24": "client '10.0.2.15/24' is not",
    " 10.0.2.15:": "client ' 10.0.2.15' is not",
    "10.0.2.15:nfs": "server 'nfs' is not",
    "10.0.2.15::gw": "gateway 'gw' is not",
    "10.0.2.15::::::off:dns": "dns0 'dns' is not",
    "10.0.2.15::::::off::dns": "dns1 'dns' is not",
    "10.0.2.15::::::off:::ntp": "ntp0 'ntp' is not",
    "10.0.2.15:::24": "'24' is not a netmask; write one like 255.255.255.0",
    "10.0.2.15:::255.0.255.0": "'255.0.255.0' is not a netmask",
    "10.0.2.15:::0.0.0.0": "'0.0.0.0' is not a netmask",
    "10.0.2.15::192.168.0.1:255.255.255.0": "not in the network of 10.0.2.15/24",
    "10.0.2.15::::::dhcp": "both dhcp and the address 10.0.2.15; leave one of them out",
    ":::::eth0:off": "off, but no address",
    "::::::none": "none, but no address",
    "::::a b": "host 'a b' is not a name",
    "::::-vm": "host '-vm' is not a name",
    "::::.": "host '.' is not a name",
    "::::a..b": "host 'a..b' is not a name",
    "::::bücher": "host 'bücher' is not a name",
    f"::::{'x' * 65}": "is not a name",
    ":::::../eth0": "'../eth0' is not the name of a device",
    ":::::..": "'..' is not the name of a device",
    ":::::lo": "'lo' is not the name of a device",
    ":::::eth 0": "'eth 0' is not the name of a device",
    ":::::interface-of-16b": "is not the name of a device",
    "dhcp,1": "not a client identifier; write dhcp,TYPE,IDENTIFIER",
    "dhcp,,x": "not a client identifier",
    "dhcp,256,x": "not a client identifier",
    "dhcp,x,y": "not a client identifier",
    f"dhcp,1,{'x' * 254}": "not a client identifier",
    "::::::::::": "more than 10 fields; write ip=client:server:gateway:netmask:host:device:",
    "[fe80::1]::::::off": "only IPv4 is understood here",
    "fe80::1": "client 'fe80' is not the IPv4 address",
}


@pytest.mark.parametrize("text", INVALID)
def test_invalid_ip_is_refused_with_a_message_that_quotes_the_option(text: str) -> None:
    with pytest.raises(CmdlineError) as caught:
        parse_ip((text,))
    assert str(caught.value).startswith(f"ip={text}: ")
    assert INVALID[text] in str(caught.value)


CONTRADICTIONS = {
    "off and dhcp": (("off", "dhcp"), "ip=dhcp: there is an ip=off too"),
    "no device in one of two": (("dhcp", ":::::eth1:dhcp"), "ip=dhcp: which device?"),
    "one device twice": (
        (":::::eth0", ":::::eth1", "10.0.0.1:::::eth0:off"),
        "device eth0 is configured twice",
    ),
    "invalid second option": ((":::::eth0", ":::::eth1:x"), "ip=:::::eth1:x: 'x' is no way"),
}


@pytest.mark.parametrize("case", CONTRADICTIONS)
def test_contradictory_ip_options_are_refused(case: str) -> None:
    values, message = CONTRADICTIONS[case]
    with pytest.raises(CmdlineError, match=r"^ip=") as caught:
        parse_ip(values)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("address", "prefix", "broadcast"),
    [
        ("10.0.2.15", 24, "10.0.2.255"),
        ("10.0.2.15", 8, "10.255.255.255"),
        ("10.0.2.15", 30, "10.0.2.15"),
        ("10.0.2.15", 31, ""),
        ("10.0.2.15", 32, ""),
    ],
)
def test_broadcast_address_of_a_network(address: str, prefix: int, broadcast: str) -> None:
    assert ipv4.broadcast_address(address, prefix) == broadcast
