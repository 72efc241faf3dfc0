"""The values of --publish, --disk and --gdb."""

import os

import pytest

from initrd.host.machine.devices import parse_disk, parse_gdb, parse_net, parse_publish
from initrd.host.qemu.argv import Disk, PublishedPort
from initrd.host.system.hosterror import HostError


@pytest.mark.parametrize(
    ("text", "port"),
    [
        ("8080:80", PublishedPort("127.0.0.1", 8080, 80)),
        ("127.0.0.2:1:65535", PublishedPort("127.0.0.2", 1, 65535)),
        ("0.0.0.0:65535:1", PublishedPort("0.0.0.0", 65535, 1)),
    ],
)
def test_port_is_published_on_the_loopback_or_at_an_address(text: str, port: PublishedPort) -> None:
    assert parse_publish(text) == port


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("80", "there is only one port\ntry: write .*HOSTPORT:GUESTPORT"),
        (":80", "'' is no number of a port"),
        ("80:", "'' is no number of a port"),
        ("http:80", "'http' is no number"),
        ("80:-1", "'-1' is no number"),
        ("²:80", "'²' is no number"),
        ("0:80", "there is no port 0"),
        ("80:0", "there is no port 0"),
        ("65536:80", "there is no port 65536"),
        (f"{'9' * 5000}:80", "is no number"),
        (":80:80", "'' is no IPv4 address"),
        ("localhost:80:80", "'localhost' is no IPv4 address"),
        ("127.1:80:80", "'127.1' is no IPv4 address"),
        ("127.0.0.256:80:80", "is no IPv4 address"),
        ("\udcff:80:80", "is no IPv4 address"),
        ("[::1]:80:80", "IPv6"),
        ("::1:80:80", "IPv6"),
    ],
)
def test_error_about_a_port_has_the_value_and_the_reason(text: str, why: str) -> None:
    with pytest.raises(HostError, match=why) as raised:
        parse_publish(text)
    assert raised.value.what == f"cannot publish {text}"


@pytest.mark.parametrize(
    ("text", "disk"),
    [
        ("/a", Disk("/a")),
        ("/a,ro", Disk("/a", writable=False)),
        ("/a,b", Disk("/a,b")),
        ("/a,rw", Disk("/a,rw")),
        ("/a,ro,", Disk("/a,ro,")),
        ("/a,,ro", Disk("/a,", writable=False)),
        ("/a,ro,ro", Disk("/a,ro", writable=False)),
    ],
)
def test_last_ro_after_a_comma_makes_a_disk_read_only(text: str, disk: Disk) -> None:
    assert parse_disk(text) == disk


def test_file_of_a_disk_is_relative_to_the_current_directory() -> None:
    assert parse_disk("a/../b,ro").path == f"{os.getcwd()}/b"


def test_disk_without_a_file_is_refused() -> None:
    with pytest.raises(HostError, match="there is no FILE"):
        parse_disk(",ro")


def test_gdb_has_a_socket_without_a_port() -> None:
    assert (parse_gdb(""), parse_gdb("1234")) == (0, 1234)


@pytest.mark.parametrize("text", ["0", "65536", "tcp::1234", "/socket"])
def test_invalid_ports_for_gdb_are_refused(text: str) -> None:
    with pytest.raises(HostError, match=f"cannot wait for gdb at {text}"):
        parse_gdb(text)


def test_network_is_without_the_hosts_loopback_unless_it_is_asked_for() -> None:
    assert (parse_net(""), parse_net("user"), parse_net("host")) == ("user", "user", "host")


@pytest.mark.parametrize("text", ["none", "HOST", "bridge=br0"])
def test_unknown_networks_are_refused(text: str) -> None:
    with pytest.raises(HostError, match=f"{text}' is no network\ntry: --net alone, or --net=host"):
        parse_net(text)
