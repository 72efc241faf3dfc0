"""Configures the network as `ip=` asks: the story. It ends in addresses that work, or BootError."""

from initrd.guest.execute import timed
from initrd.guest.failure import BootError, reason
from initrd.guest.network import interfaces, ipv4
from initrd.guest.network.dhcp import DhcpExchange, NoLeaseError
from initrd.guest.network.dhcp_packets import DhcpClient, DhcpReply
from initrd.guest.network.resolv import ResolverSettings
from initrd.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

    from initrd.guest.kernel import Kernel
    from initrd.guest.log import Log
    from initrd.guest.network.ipconfig import Interface
    from initrd.guest.network.netlink import NetworkStack

NO_LEASE = (
    "check that there is a DHCP server (for QEMU: -netdev user), give a static address with "
    "ip=ADDRESS::GATEWAY:NETMASK, or more time with initrd.timeout="
)


class InterfaceSettings(Record):
    """What an interface gets: what `ip=` says, and what DHCP says where that is silent."""

    device: str
    address: str
    prefix: int
    gateway: str = ""
    mtu: int = 0  # bytes; 0 leaves it as it is
    names: ResolverSettings = ResolverSettings()


class Change(Record):
    """One change to the network."""

    def describe(self) -> str:
        """Say what it does, as the object of "cannot …"."""
        raise NotImplementedError

    def apply(self, stack: "NetworkStack") -> None:
        """Do it. Raises OSError."""
        raise NotImplementedError


class BringUp(Change):
    """Bring an interface up."""

    device: str

    def describe(self) -> str:
        """Name the interface."""
        return f"bring the network device {self.device} up"

    def apply(self, stack: "NetworkStack") -> None:
        """Bring it up."""
        stack.up(self.device)


class SetMtu(Change):
    """Set the size of the largest packet."""

    device: str
    mtu: int

    def describe(self) -> str:
        """Name the interface and the size."""
        return f"set the MTU of {self.device} to {self.mtu}"

    def apply(self, stack: "NetworkStack") -> None:
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

    def apply(self, stack: "NetworkStack") -> None:
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

    def apply(self, stack: "NetworkStack") -> None:
        """Add the route."""
        stack.add_gateway(self.device, self.gateway, onlink=self.onlink)


class SetHostname(Change):
    """Give this machine its name."""

    name: str

    def describe(self) -> str:
        """Quote the name."""
        return f"set the host name {self.name}"

    def apply(self, stack: "NetworkStack") -> None:
        """Set it."""
        stack.set_hostname(self.name)


def plan(settings: InterfaceSettings) -> tuple[Change, ...]:
    """Return the changes that give an interface its settings, in their order."""
    device, address, gateway = settings.device, settings.address, settings.gateway
    changes: tuple[Change, ...] = (SetMtu(device, settings.mtu),) if settings.mtu else ()
    changes += (AddAddress(device, address, settings.prefix),)
    if gateway:
        onlink = not ipv4.same_network(address, gateway, settings.prefix)
        changes += (AddGateway(device, gateway, onlink),)
    return changes


def apply_changes(
    changes: "Iterable[Change]", stack: "NetworkStack", kernel: "Kernel", log: "Log"
) -> None:
    """Make changes in their order. Raises BootError for the first that fails."""
    for change in changes:
        timed(change.describe(), lambda change=change: _apply(change, stack), kernel, log)  # type: ignore[misc]


def _apply(change: Change, stack: "NetworkStack") -> None:
    try:
        change.apply(stack)
    except OSError as error:
        raise BootError(f"cannot {change.describe()}", reason(error)) from error


class NetworkSetup:
    """One configuration of the network, with all that acts."""

    def __init__(self, timeout: float, kernel: "Kernel", log: "Log", stack: "NetworkStack") -> None:
        self.timeout = timeout  # seconds; for each interface
        self.kernel, self.log, self.stack = kernel, log, stack

    def configure(self, interfaces: "tuple[Interface, ...]") -> ResolverSettings:
        """Bring up loopback and the interfaces; return what name resolution needs."""
        self._carry_out(BringUp("lo"))
        every = [self._configure(interface) for interface in interfaces]
        names = merge([settings.names for settings in every])
        if names.hostname:
            self._carry_out(SetHostname(names.hostname))
        return names

    def _configure(self, wanted: "Interface") -> InterfaceSettings:
        deadline = self.kernel.monotonic() + self.timeout
        found = interfaces.find(wanted.device, self.timeout, self.kernel)
        check_unambiguous(wanted, found)
        self._carry_out(*(BringUp(device) for device in found))
        left = deadline - self.kernel.monotonic()
        linked = interfaces.wait_for_carrier(found, left, self.kernel)
        settings = (
            combine(linked[0], wanted) if wanted.address else self._ask(linked, wanted, deadline)
        )
        self._carry_out(*plan(settings))
        return settings

    def _ask(
        self, linked: tuple[str, ...], wanted: "Interface", deadline: float
    ) -> InterfaceSettings:
        """Get a lease by DHCP, on the first of some interfaces that is offered one."""
        subject = f"cannot get an address by DHCP on {', '.join(linked)}"
        clients = {device: self._client(device, wanted) for device in linked}
        try:
            with self.stack.packet_socket() as wire:
                device, lease = DhcpExchange(clients, wire, deadline, self.kernel).acquire()
        except NoLeaseError as error:
            raise BootError(subject, f"{error} within {self.timeout:g} s", NO_LEASE) from error
        except OSError as error:
            raise BootError(subject, reason(error)) from error
        self.log.progress(f"{device}: {lease.address} from {lease.server} for {lease.lease} s")
        return combine(device, wanted, lease)

    def _client(self, device: str, wanted: "Interface") -> DhcpClient:
        mac = interfaces.mac_address(device, self.kernel)
        # Not from a random source: early in a boot there may be none yet.
        xid = int.from_bytes(mac, "big") ^ int(self.kernel.monotonic() * 1e9)
        return DhcpClient(mac, xid & 0xFFFF_FFFF, wanted.hostname, wanted.client_id)

    def _carry_out(self, *changes: "Change") -> None:
        apply_changes(changes, self.stack, self.kernel, self.log)


def check_unambiguous(wanted: "Interface", found: tuple[str, ...]) -> None:
    """Raise BootError when a static address could go to more than one interface."""
    if wanted.address and len(found) > 1:
        raise BootError(
            f"cannot give the address {wanted.address} to a network device",
            f"there are several: {', '.join(found)}",
            f"name one, as in ip={wanted.address}:::::{found[0]}:off",
        )


def combine(device: str, wanted: "Interface", lease: DhcpReply | None = None) -> InterfaceSettings:
    """Return what an interface gets: what `ip=` says wins over what DHCP says."""
    lease = lease or DhcpReply(0, "")
    return InterfaceSettings(
        device=device,
        address=wanted.address or lease.address,
        prefix=wanted.prefix or lease.prefix,
        gateway=wanted.gateway or lease.gateway,
        mtu=lease.mtu,
        names=ResolverSettings(
            servers=wanted.dns or lease.dns,
            domain=wanted.domain or lease.domain,
            hostname=wanted.hostname or lease.hostname.partition(".")[0],
        ),
    )


def merge(every: "list[ResolverSettings]") -> ResolverSettings:
    """Return all name servers, each once, and the first domain and host name."""
    servers = dict.fromkeys(server for names in every for server in names.servers)
    return ResolverSettings(
        tuple(servers),
        next((names.domain for names in every if names.domain), ""),
        next((names.hostname for names in every if names.hostname), ""),
    )
