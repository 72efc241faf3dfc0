"""The kernel's network stack: what `ip=` changes goes through here.

One thin class, handed in like `Kernel`, so that a test hands over one that records. No decisions.
"""

import os
import socket

from initrd.guest import _syscalls
from initrd.guest.network import netlink

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Self

_ETH_P_IP = 0x0800  # include/uapi/linux/if_ether.h
_EVERYBODY = b"\xff" * 6
_LARGEST = 65536  # bytes


class Wire:
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


class Stack:
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
        netlink.send(netlink.address_message(socket.if_nametoindex(device), address, prefix))

    def add_gateway(self, device: str, gateway: str, *, onlink: bool) -> bool:
        """Route everything elsewhere to a gateway; False when there is such a route already."""
        index = socket.if_nametoindex(device)
        return netlink.send(netlink.gateway_message(index, gateway, onlink=onlink))

    def set_hostname(self, name: str) -> None:
        """sethostname(2)."""
        _syscalls.set_hostname(name)

    def wire(self) -> Wire:
        """Open a wire."""
        return Wire()
