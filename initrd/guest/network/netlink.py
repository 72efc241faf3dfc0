"""Addresses and routes, told to the kernel in pyroute2's messages: rtnetlink(7).

Only the messages of pyroute2 are used. Its `IPRoute` is built on asyncio and takes ten times as
long to import; a request that is sent and acknowledged needs no event loop.
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
_SCOPE_UNIVERSE, _SCOPE_LINK, _FLAG_ONLINK = 0, 253, 4
_ETH_P_IP = 0x0800  # include/uapi/linux/if_ether.h
_EVERYBODY = b"\xff" * 6
_LARGEST = 65536  # bytes


def bare_package(name: str) -> "ModuleType":
    """Make the modules of a package importable without its `__init__`, and return it.

    pyroute2's imports all of pyroute2, which takes ten times as long as what is used here.
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
    """Return the message that gives an address, for good, to the interface `index`."""
    bare_package("pyroute2")
    from pyroute2.netlink.rtnl.ifaddrmsg import ifaddrmsg  # noqa: PLC0415 - only when asked for

    message = ifaddrmsg()
    message.update(family=socket.AF_INET, prefixlen=prefix, index=index)
    message["attrs"] = [("IFA_LOCAL", address), ("IFA_ADDRESS", address)]
    if broadcast := ipv4.broadcast(address, prefix):
        message["attrs"].append(("IFA_BROADCAST", broadcast))
    return _request(message, _NEW_ADDRESS)


def gateway_message(index: int, gateway: str, *, onlink: bool) -> "Any":
    """Return the message that makes `gateway` the way to everywhere.

    `onlink`: it is on the interface's link, even when no address of ours says so.
    """
    bare_package("pyroute2")
    from pyroute2.netlink.rtnl.rtmsg import rtmsg  # noqa: PLC0415 - only when asked for

    message = rtmsg()
    message.update(family=socket.AF_INET, table=_TABLE_MAIN, proto=_PROTO_BOOT, type=_UNICAST)
    message.update(scope=_SCOPE_UNIVERSE, flags=_FLAG_ONLINK if onlink else 0)
    message["attrs"] = [("RTA_GATEWAY", gateway), ("RTA_OIF", index)]
    return _request(message, _NEW_ROUTE)


def _request(message: "Any", kind: int) -> "Any":
    message["header"].update(type=kind, flags=_REQUEST | _ACK | _CREATE | _EXCLUSIVE)
    message["header"].update(sequence_number=1)
    return message


def send(message: "Any") -> bool:
    """Send a request, and return whether it changed anything: False when it was so before.

    Raises OSError with the kernel's own explanation where it gives one.
    """
    message.encode()
    flags = socket.SOCK_RAW | socket.SOCK_CLOEXEC
    with socket.socket(socket.AF_NETLINK, flags, socket.NETLINK_ROUTE) as kernel:
        for option in (_CAP_ACK, _EXT_ACK):
            kernel.setsockopt(_SOL_NETLINK, option, 1)
        kernel.send(message.data)
        number, text = _read_acknowledgement(kernel.recv(65536))
    if number == EEXIST:
        return False
    if number:
        raise OSError(number, text)
    return True


def _read_acknowledgement(data: bytes) -> tuple[int, str]:
    """Return the errno, 0 for none, and the kernel's explanation."""
    bare_package("pyroute2")
    from pyroute2.netlink import nlmsgerr  # noqa: PLC0415 - only when asked for

    answer = nlmsgerr(data)
    answer.decode()
    number = -int(answer["error"])
    return number, str(answer.get_attr("NLMSGERR_ATTR_MSG") or os.strerror(number))


class PacketSocket:
    """IP packets on interfaces that have no address: packet(7). Closed by its `with`."""

    def __init__(self) -> None:
        kind = socket.SOCK_DGRAM | socket.SOCK_CLOEXEC
        self._socket = socket.socket(socket.AF_PACKET, kind, socket.htons(_ETH_P_IP))

    def __enter__(self) -> "Self":
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def send(self, device: str, packet: bytes) -> None:
        """Send a packet to everybody on the link."""
        self._socket.sendto(packet, (device, _ETH_P_IP, 0, 0, _EVERYBODY))

    def receive(self, seconds: float) -> tuple[str, bytes] | None:
        """Return the next packet and the interface it came in by; None after `seconds`."""
        self._socket.settimeout(seconds)
        try:
            packet, address = self._socket.recvfrom(_LARGEST)
        except (TimeoutError, BlockingIOError):  # the latter when there is no time to wait at all
            return None
        return address[0], packet


class NetworkStack:
    """The network stack of this machine. Every method raises OSError as the call behind it does."""

    def up(self, device: str) -> None:
        """Bring an interface up."""
        _syscalls.interface_up(device)

    def set_mtu(self, device: str, mtu: int) -> None:
        """Set the largest packet's size, in bytes."""
        fd = os.open(f"/sys/class/net/{device}/mtu", os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(fd, str(mtu).encode())
        finally:
            os.close(fd)

    def add_address(self, device: str, address: str, prefix: int) -> None:
        """Give an interface an address, for good."""
        send(address_message(socket.if_nametoindex(device), address, prefix))

    def add_gateway(self, device: str, gateway: str, *, onlink: bool) -> bool:
        """Route everything elsewhere to a gateway; False when there is such a route already."""
        index = socket.if_nametoindex(device)
        return send(gateway_message(index, gateway, onlink=onlink))

    def set_hostname(self, name: str) -> None:
        """sethostname(2)."""
        _syscalls.set_hostname(name)

    def packet_socket(self) -> PacketSocket:
        """Open a wire."""
        return PacketSocket()
