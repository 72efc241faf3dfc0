"""Parse the values of --net, --publish, --disk and --gdb. Pure, but for the current directory.

Each function raises HostError for a value that is not of its form.
"""

import os
import socket

from initrd.host.qemu.argv import Disk, PublishedPort
from initrd.host.system.hosterror import HostError
from initrd.text import parse_natural

# What the guest reaches: not the services on the host's loopback, or these too.
NETWORKS = NETWORK_WITHOUT_HOST, NETWORK_WITH_HOST = "user", "host"
_LOOPBACK = "127.0.0.1"
_READ_ONLY = ",ro"
_MAX_PORT = 65535
_SYNTAX = "write [ADDRESS:]HOSTPORT:GUESTPORT"


def parse_net(text: str) -> str:
    """Return the network that a value of --net stands for, one of NETWORKS."""
    network = text or NETWORK_WITHOUT_HOST
    if network not in NETWORKS:
        why = f"{text!r} is no network"
        raise HostError("cannot connect the guest", why, "--net alone, or --net=host")
    return network


def parse_publish(text: str) -> PublishedPort:
    """Return the port that `[ADDRESS:]HOSTPORT:GUESTPORT` publishes; by default on the loopback."""
    subject = f"cannot publish {text}"
    if "[" in text or text.count(":") > 2:
        why = "QEMU's user-mode network forwards no connections to an IPv6 address"
        raise HostError(subject, why, "an IPv4 address, such as 127.0.0.1")
    if ":" not in text:
        raise HostError(subject, "there is only one port", _SYNTAX)
    ports = text if text.count(":") == 2 else f"{_LOOPBACK}:{text}"
    address, host, guest = ports.split(":")
    if not _is_ipv4_address(address):
        raise HostError(subject, f"{address!r} is no IPv4 address", "127.0.0.1, or 0.0.0.0 for all")
    return PublishedPort(address, _parse_port(host, subject), _parse_port(guest, subject))


def parse_disk(text: str) -> Disk:
    """Return the disk that `FILE[,ro]` is. Other commas belong to the name of the file."""
    path = text.removesuffix(_READ_ONLY)
    if not path:
        raise HostError(f"cannot use {text} as a disk", "there is no FILE before the comma")
    return Disk(os.path.abspath(path), writable=path == text)


def parse_gdb(text: str) -> int:
    """Return the TCP port for gdb; 0 for an empty text, which stands for a socket."""
    return _parse_port(text, f"cannot wait for gdb at {text}") if text else 0


def _parse_port(text: str, subject: str) -> int:
    number = parse_natural(text)
    if number is None:
        raise HostError(subject, f"{text!r} is no number of a port", f"a number up to {_MAX_PORT}")
    if not 0 < number <= _MAX_PORT:
        raise HostError(subject, f"there is no port {number}", f"a number from 1 to {_MAX_PORT}")
    return number


def _is_ipv4_address(text: str) -> bool:
    """Return whether `text` is four numbers; names are not looked up."""
    try:
        socket.inet_pton(socket.AF_INET, text)
    except (OSError, ValueError):  # ValueError: the text is not UTF-8
        return False
    return True
