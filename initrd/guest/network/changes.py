"""What is changed about an interface: decided first, as frozen values that describe themselves."""

from initrd.guest.execute import timed
from initrd.guest.failure import BootError, reason
from initrd.guest.network import ipv4
from initrd.guest.network.names import Names
from initrd.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from initrd.guest.console import Log
    from initrd.guest.kernel import Kernel
    from initrd.guest.network.stack import Stack


class Settings(Record):
    """What an interface gets: what `ip=` says, and what DHCP says where that is silent."""

    device: str
    address: str
    prefix: int
    gateway: str = ""
    mtu: int = 0  # bytes; 0 leaves it as it is
    names: Names = Names()


class Change(Record):
    """One change to the network."""

    def describe(self) -> str:
        """Say what it does, as the object of "cannot …"."""
        raise NotImplementedError

    def apply(self, stack: "Stack") -> None:
        """Do it. Raises OSError."""
        raise NotImplementedError


class BringUp(Change):
    """Bring an interface up."""

    device: str

    def describe(self) -> str:
        """Name the interface."""
        return f"bring the network device {self.device} up"

    def apply(self, stack: "Stack") -> None:
        """Bring it up."""
        stack.up(self.device)


class SetMtu(Change):
    """Set the size of the largest packet."""

    device: str
    mtu: int

    def describe(self) -> str:
        """Name the interface and the size."""
        return f"set the MTU of {self.device} to {self.mtu}"

    def apply(self, stack: "Stack") -> None:
        """Set it."""
        stack.set_mtu(self.device, self.mtu)


class AddAddress(Change):
    """Give an interface an address. One that it has already is fine."""

    device: str
    address: str
    prefix: int

    def describe(self) -> str:
        """Name the interface and the address."""
        return f"give {self.device} the address {self.address}/{self.prefix}"

    def apply(self, stack: "Stack") -> None:
        """Give it."""
        stack.add_address(self.device, self.address, self.prefix)


class AddGateway(Change):
    """Make a gateway the way to everywhere else. One that is there already stays."""

    device: str
    gateway: str
    onlink: bool = False  # it is on the link, though not in the address's network

    def describe(self) -> str:
        """Name the interface and the gateway."""
        return f"route through {self.gateway} on {self.device}"

    def apply(self, stack: "Stack") -> None:
        """Add the route."""
        stack.add_gateway(self.device, self.gateway, onlink=self.onlink)


class SetHostname(Change):
    """Give this machine its name."""

    name: str

    def describe(self) -> str:
        """Quote the name."""
        return f"set the host name {self.name}"

    def apply(self, stack: "Stack") -> None:
        """Set it."""
        stack.set_hostname(self.name)


def plan(settings: Settings) -> tuple[Change, ...]:
    """Return the changes that give an interface its settings, in their order."""
    device, address, gateway = settings.device, settings.address, settings.gateway
    changes: tuple[Change, ...] = (SetMtu(device, settings.mtu),) if settings.mtu else ()
    changes += (AddAddress(device, address, settings.prefix),)
    if gateway:
        onlink = not ipv4.same_network(address, gateway, settings.prefix)
        changes += (AddGateway(device, gateway, onlink),)
    return changes


def carry_out(changes: "Iterable[Change]", stack: "Stack", kernel: "Kernel", log: "Log") -> None:
    """Make changes in their order. Raises BootError for the first that fails."""
    for change in changes:
        timed(change.describe(), lambda change=change: _apply(change, stack), kernel, log)  # type: ignore[misc]


def _apply(change: Change, stack: "Stack") -> None:
    try:
        change.apply(stack)
    except OSError as error:
        raise BootError(f"cannot {change.describe()}", reason(error)) from error
