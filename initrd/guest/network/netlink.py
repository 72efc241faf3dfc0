"""Change the kernel's network settings: addresses and routes by rtnetlink(7), packet sockets.

Only the message classes of pyroute2 are used. Its `IPRoute` is built on asyncio and takes ten times
as long to import; a request that is sent and acknowledged needs no event loop.
"""

import os
import socket
import sys
from errno import EEXIST

from initrd.guest import _syscalls
from initrd.guest.network import ipv4

TYPE_CHECKING = False
if TYPE_CHECKING:
    from types import ModuleType
    from typing import Any, Self

_SOL_NETLINK, _CAP_ACK, _EXT_ACK = 270, 10, 11  # include/uapi/linux/netlink.h
_REQUEST, _ACK, _EXCLUSIVE, _CREATE = 0x1, 0x4, 0x200, 0x400
_NEW_ADDRESS, _NEW_ROUTE = 20, 24  # include/uapi/linux/rtnetlink.h
_TABLE_MAIN, _PROTO_BOOT, _UNICAST = 254, 3, 1
_SCOPE_UNIVERSE, _FLAG_ONLINK = 0, 4
_ETH_P_IP = 0x0800  # include/uapi/linux/if_ether.h
_BROADCAST_MAC = b"\xff" * 6
_MAX_PACKET = 65536  # bytes


def bare_package(name: str) -> "ModuleType":
    """Enter a package into `sys.modules` without running its `__init__`, and return the package.

    The `__init__` of pyroute2 imports all of pyroute2, which takes ten times as long as the
    modules that are used here. Raises ModuleNotFoundError.
    """
    if name not in sys.modules:
        found = (finder.find_spec(name, None) for finder in sys.meta_path)
        spec = next((spec for spec in found if spec), None)
        if spec is None:
            raise ModuleNotFoundError(f"no module named {name}", name=name)
        package = type(sys)(name)
        package.__spec__, package.__path__ = spec, spec.submodule_search_locations or []
        sys.modules[name] = package
    return sys.modules[name]


def address_message(index: int, address: str, prefix: int) -> "Any":
    """Return the message that adds an address without a lifetime to the interface `index`."""
    bare_package("pyroute2")
    from pyroute2.netlink.rtnl.ifaddrmsg import ifaddrmsg  # noqa: PLC0415 - only with ip=

    message = ifaddrmsg()
    message.update(family=socket.AF_INET, prefixlen=prefix, index=index)
    message["attrs"] = [("IFA_LOCAL", address), ("IFA_ADDRESS", address)]
    if broadcast := ipv4.broadcast_address(address, prefix):
        message["attrs"].append(("IFA_BROADCAST", broadcast))
    return _set_header(message, _NEW_ADDRESS)


def gateway_message(index: int, gateway: str, *, onlink: bool) -> "Any":
    """Return the message that adds a default route through `gateway`.

    `onlink`: the gateway is on the interface's link, even when no network of the interface holds
    it.
    """
    bare_package("pyroute2")
    from pyroute2.netlink.rtnl.rtmsg import rtmsg  # noqa: PLC0415 - only with ip=

    message = rtmsg()
    message.update(family=socket.AF_INET, table=_TABLE_MAIN, proto=_PROTO_BOOT, type=_UNICAST)
    message.update(scope=_SCOPE_UNIVERSE, flags=_FLAG_ONLINK if onlink else 0)
    message["attrs"] = [("RTA_GATEWAY", gateway), ("RTA_OIF", index)]
    return _set_header(message, _NEW_ROUTE)


def import_all() -> None:
    """Import all modules of pyroute2 that are used here, before their files are deleted."""
    address_message(1, "127.0.0.1", 8).encode()
    gateway_message(1, "127.0.0.1", onlink=False).encode()
    from pyroute2.netlink import nlmsgerr  # noqa: F401, PLC0415 - for _read_acknowledgement


def _set_header(message: "Any", message_type: int) -> "Any":
    message["header"].update(type=message_type, flags=_REQUEST | _ACK | _CREATE | _EXCLUSIVE)
    message["header"].update(sequence_number=1)
    return message


def send(message: "Any") -> bool:
    """Send a request; return False when the address or route exists already (EEXIST).

    Raises OSError with the kernel's explanation, or the errno's text where there is none.
    """
    message.encode()
    flags = socket.SOCK_RAW | socket.SOCK_CLOEXEC
    with socket.socket(socket.AF_NETLINK, flags, socket.NETLINK_ROUTE) as netlink:
        for option in (_CAP_ACK, _EXT_ACK):
            netlink.setsockopt(_SOL_NETLINK, option, 1)
        netlink.send(message.data)
        number, text = _read_acknowledgement(netlink.recv(_MAX_PACKET))
    if number == EEXIST:
        return False
    if number:
        raise OSError(number, text)
    return True


def _read_acknowledgement(data: bytes) -> tuple[int, str]:
    """Return the errno, 0 for success, and the kernel's explanation or the errno's text."""
    bare_package("pyroute2")
    from pyroute2.netlink import nlmsgerr  # noqa: PLC0415 - only with ip=

    message = nlmsgerr(data)
    message.decode()
    number = -int(message["error"])
    return number, str(message.get_attr("NLMSGERR_ATTR_MSG") or os.strerror(number))


class PacketSocket:
    """Sends and receives IP packets on interfaces that have no address: packet(7).

    Closed at the end of the `with` statement.
    """

    def __init__(self) -> None:
        flags = socket.SOCK_DGRAM | socket.SOCK_CLOEXEC
        self._socket = socket.socket(socket.AF_PACKET, flags, socket.htons(_ETH_P_IP))

    def __enter__(self) -> "Self":
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def send(self, device: str, packet: bytes) -> None:
        """Send a packet to the broadcast address of the link."""
        self._socket.sendto(packet, (device, _ETH_P_IP, 0, 0, _BROADCAST_MAC))

    def receive(self, seconds: float) -> tuple[str, bytes] | None:
        """Return the receiving interface and the next packet; None after `seconds`."""
        self._socket.settimeout(seconds)
        try:
            packet, address = self._socket.recvfrom(_MAX_PACKET)
        except (TimeoutError, BlockingIOError):  # BlockingIOError: `seconds` is 0
            return None
        return address[0], packet


class NetworkStack:
    """Changes the network settings of this machine. The methods raise OSError."""

    def bring_up(self, device: str) -> None:
        """Bring an interface up."""
        _syscalls.interface_up(device)

    def set_mtu(self, device: str, mtu: int) -> None:
        """Set the maximum size of a packet, in bytes."""
        fd = os.open(f"/sys/class/net/{device}/mtu", os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(fd, str(mtu).encode())
        finally:
            os.close(fd)

    def add_address(self, device: str, address: str, prefix: int) -> None:
        """Add an address without a lifetime. An address that exists already is left alone."""
        send(address_message(socket.if_nametoindex(device), address, prefix))

    def add_gateway(self, device: str, gateway: str, *, onlink: bool) -> bool:
        """Add a default route; return False when such a route exists already."""
        index = socket.if_nametoindex(device)
        return send(gateway_message(index, gateway, onlink=onlink))

    def set_hostname(self, name: str) -> None:
        """Set the host name: sethostname(2)."""
        _syscalls.set_hostname(name)

    def open_packet_socket(self) -> PacketSocket:
        """Open a socket for IP packets on all interfaces."""
        return PacketSocket()
