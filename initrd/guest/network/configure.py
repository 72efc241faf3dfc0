"""Configure the network interfaces as `ip=` requests, with static addresses or by DHCP."""

from initrd.errors import reason
from initrd.guest.execute import timed
from initrd.guest.failure import BootError
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
    from initrd.guest.network.ipconfig import InterfaceRequest
    from initrd.guest.network.netlink import NetworkStack

NO_LEASE = (
    "check that there is a DHCP server (for QEMU: -netdev user), give a static address with "
    "ip=ADDRESS::GATEWAY:NETMASK, or more time with initrd.timeout="
)


class InterfaceSettings(Record):
    """The settings of one interface, from `ip=` and, for fields missing there, from the lease."""

    device: str
    address: str
    prefix: int
    gateway: str = ""
    mtu: int = 0  # bytes; 0: not changed
    resolver: ResolverSettings = ResolverSettings()


class Change(Record):
    """One change to the network settings."""

    def describe(self) -> str:
        """Return what the change does, as the object of "cannot …"."""
        raise NotImplementedError

    def apply(self, stack: "NetworkStack") -> None:
        """Make the change. Raises OSError."""
        raise NotImplementedError


class BringUp(Change):
    """Bring an interface up."""

    device: str

    def describe(self) -> str:
        """Return text that names the interface."""
        return f"bring the network device {self.device} up"

    def apply(self, stack: "NetworkStack") -> None:
        """Bring the interface up."""
        stack.bring_up(self.device)


class SetMtu(Change):
    """Set the MTU, the maximum size of a packet, in bytes."""

    device: str
    mtu: int

    def describe(self) -> str:
        """Return text that names the interface and the size."""
        return f"set the MTU of {self.device} to {self.mtu}"

    def apply(self, stack: "NetworkStack") -> None:
        """Set the MTU."""
        stack.set_mtu(self.device, self.mtu)


class AddAddress(Change):
    """Add an address to an interface. An address that it has already is left alone."""

    device: str
    address: str
    prefix: int

    def describe(self) -> str:
        """Return text that names the interface and the address."""
        return f"give {self.device} the address {self.address}/{self.prefix}"

    def apply(self, stack: "NetworkStack") -> None:
        """Add the address."""
        stack.add_address(self.device, self.address, self.prefix)


class AddGateway(Change):
    """Add a default route through a gateway. A default route that exists already stays."""

    device: str
    gateway: str
    onlink: bool = False  # the gateway is on the link, but not in the network of the address

    def describe(self) -> str:
        """Return text that names the interface and the gateway."""
        return f"route through {self.gateway} on {self.device}"

    def apply(self, stack: "NetworkStack") -> None:
        """Add the route."""
        stack.add_gateway(self.device, self.gateway, onlink=self.onlink)


class SetHostname(Change):
    """Set the host name."""

    name: str

    def describe(self) -> str:
        """Return text that quotes the name."""
        return f"set the host name {self.name}"

    def apply(self, stack: "NetworkStack") -> None:
        """Set the host name."""
        stack.set_hostname(self.name)


def plan_changes(settings: InterfaceSettings) -> tuple[Change, ...]:
    """Return the changes that apply the settings of an interface, in order."""
    device, address, gateway = settings.device, settings.address, settings.gateway
    changes: tuple[Change, ...] = (SetMtu(device, settings.mtu),) if settings.mtu else ()
    changes += (AddAddress(device, address, settings.prefix),)
    if gateway:
        onlink = not ipv4.is_same_network(address, gateway, settings.prefix)
        changes += (AddGateway(device, gateway, onlink),)
    return changes


def apply_changes(
    changes: "Iterable[Change]", stack: "NetworkStack", kernel: "Kernel", log: "Log"
) -> None:
    """Make changes in order. Raises BootError for the first one that fails."""
    for change in changes:
        timed(change.describe(), lambda change=change: _apply(change, stack), kernel, log)  # type: ignore[misc]


def _apply(change: Change, stack: "NetworkStack") -> None:
    try:
        change.apply(stack)
    except OSError as error:
        raise BootError(f"cannot {change.describe()}", reason(error)) from error


class NetworkSetup:
    """Configures the interfaces of one boot, each within `timeout` seconds."""

    def __init__(self, timeout: float, kernel: "Kernel", log: "Log", stack: "NetworkStack") -> None:
        self.timeout = timeout
        self.kernel, self.log, self.stack = kernel, log, stack

    def configure(self, requests: "tuple[InterfaceRequest, ...]") -> ResolverSettings:
        """Bring up loopback and configure the interfaces; return the name resolution settings.

        Raises BootError.
        """
        self._apply_changes(BringUp("lo"))
        settings = [self._configure_interface(request) for request in requests]
        resolver = merge_resolver_settings([each.resolver for each in settings])
        if resolver.hostname:
            self._apply_changes(SetHostname(resolver.hostname))
        return resolver

    def _configure_interface(self, request: "InterfaceRequest") -> InterfaceSettings:
        deadline = self.kernel.monotonic() + self.timeout
        devices = interfaces.find_interfaces(request.device, self.timeout, self.kernel)
        check_unambiguous(request, devices)
        self._apply_changes(*(BringUp(device) for device in devices))
        remaining = deadline - self.kernel.monotonic()
        linked = interfaces.wait_for_carrier(devices, remaining, self.kernel)
        if request.address:
            settings = combine_settings(linked[0], request)
        else:
            settings = self._acquire_lease(linked, request, deadline)
        self._apply_changes(*plan_changes(settings))
        return settings

    def _acquire_lease(
        self, devices: tuple[str, ...], request: "InterfaceRequest", deadline: float
    ) -> InterfaceSettings:
        """Return the settings by DHCP of the first interface that receives an offer."""
        subject = f"cannot get an address by DHCP on {', '.join(devices)}"
        clients = {device: self._create_client(device, request) for device in devices}
        try:
            with self.stack.open_packet_socket() as packet_socket:
                exchange = DhcpExchange(clients, packet_socket, deadline, self.kernel)
                device, lease = exchange.acquire()
        except NoLeaseError as error:
            raise BootError(subject, f"{error} within {self.timeout:g} s", NO_LEASE) from error
        except OSError as error:
            raise BootError(subject, reason(error)) from error
        self.log.progress(f"{device}: {lease.address} from {lease.server} for {lease.lease_time} s")
        return combine_settings(device, request, lease)

    def _create_client(self, device: str, request: "InterfaceRequest") -> DhcpClient:
        mac = interfaces.mac_address(device, self.kernel)
        # The identifier is not random: the kernel may have no entropy early in a boot.
        xid = int.from_bytes(mac, "big") ^ int(self.kernel.monotonic() * 1e9)
        return DhcpClient(mac, xid & 0xFFFF_FFFF, request.hostname, request.client_id)

    def _apply_changes(self, *changes: "Change") -> None:
        apply_changes(changes, self.stack, self.kernel, self.log)


def check_unambiguous(request: "InterfaceRequest", devices: tuple[str, ...]) -> None:
    """Raise BootError when a static address could be given to more than one interface."""
    if request.address and len(devices) > 1:
        raise BootError(
            f"cannot give the address {request.address} to a network device",
            f"there are several: {', '.join(devices)}",
            f"name one, as in ip={request.address}:::::{devices[0]}:off",
        )


def combine_settings(
    device: str, request: "InterfaceRequest", lease: DhcpReply | None = None
) -> InterfaceSettings:
    """Return the settings of an interface: a field of `ip=` takes precedence over the lease."""
    lease = lease or DhcpReply(0, "")
    return InterfaceSettings(
        device=device,
        address=request.address or lease.address,
        prefix=request.prefix or lease.prefix,
        gateway=request.gateway or lease.gateway,
        mtu=lease.mtu,
        resolver=ResolverSettings(
            servers=request.dns or lease.dns,
            domain=request.domain or lease.domain,
            hostname=request.hostname or lease.hostname.partition(".")[0],
        ),
    )


def merge_resolver_settings(settings: "list[ResolverSettings]") -> ResolverSettings:
    """Return all name servers without duplicates, the first domain and the first host name."""
    servers = dict.fromkeys(server for each in settings for server in each.servers)
    return ResolverSettings(
        tuple(servers),
        next((each.domain for each in settings if each.domain), ""),
        next((each.hostname for each in settings if each.hostname), ""),
    )
