"""Configures the network as `ip=` asks: the story. It ends in addresses that work, or BootError."""

from initrd.guest.failure import BootError, reason
from initrd.guest.network import devices
from initrd.guest.network.changes import (
    BringUp,
    Change,
    SetHostname,
    Settings,
    carry_out,
    plan,
)
from initrd.guest.network.dhcp import Exchange, NoLeaseError
from initrd.guest.network.names import Names
from initrd.guest.network.packets import Answer, Client

TYPE_CHECKING = False
if TYPE_CHECKING:
    from initrd.guest.console import Log
    from initrd.guest.kernel import Kernel
    from initrd.guest.network.stack import Stack
    from initrd.guest.network.syntax import Interface


NO_LEASE = (
    "check that there is a DHCP server (for QEMU: -netdev user), give a static address with "
    "ip=ADDRESS::GATEWAY:NETMASK, or more time with initrd.timeout="
)


class Setup:
    """One configuration of the network, with all that acts."""

    def __init__(self, timeout: float, kernel: "Kernel", log: "Log", stack: "Stack") -> None:
        self.timeout = timeout  # seconds; for each interface
        self.kernel, self.log, self.stack = kernel, log, stack

    def configure(self, interfaces: "tuple[Interface, ...]") -> Names:
        """Bring up loopback and the interfaces; return what name resolution needs."""
        self._carry_out(BringUp("lo"))
        every = [self._configure(interface) for interface in interfaces]
        names = merge([settings.names for settings in every])
        if names.hostname:
            self._carry_out(SetHostname(names.hostname))
        return names

    def _configure(self, wanted: "Interface") -> Settings:
        deadline = self.kernel.monotonic() + self.timeout
        found = devices.find(wanted.device, self.timeout, self.kernel)
        check_unambiguous(wanted, found)
        self._carry_out(*(BringUp(device) for device in found))
        left = deadline - self.kernel.monotonic()
        linked = devices.wait_for_carrier(found, left, self.kernel)
        settings = (
            combine(linked[0], wanted) if wanted.address else self._ask(linked, wanted, deadline)
        )
        self._carry_out(*plan(settings))
        return settings

    def _ask(self, linked: tuple[str, ...], wanted: "Interface", deadline: float) -> Settings:
        """Get a lease by DHCP, on the first of some interfaces that is offered one."""
        subject = f"cannot get an address by DHCP on {', '.join(linked)}"
        clients = {device: self._client(device, wanted) for device in linked}
        try:
            with self.stack.wire() as wire:
                device, lease = Exchange(clients, wire, deadline, self.kernel).acquire()
        except NoLeaseError as error:
            raise BootError(subject, f"{error} within {self.timeout:g} s", NO_LEASE) from error
        except OSError as error:
            raise BootError(subject, reason(error)) from error
        self.log.progress(f"{device}: {lease.address} from {lease.server} for {lease.lease} s")
        return combine(device, wanted, lease)

    def _client(self, device: str, wanted: "Interface") -> Client:
        mac = devices.mac_address(device, self.kernel)
        # Not from a random source: early in a boot there may be none yet.
        xid = int.from_bytes(mac, "big") ^ int(self.kernel.monotonic() * 1e9)
        return Client(mac, xid & 0xFFFF_FFFF, wanted.hostname, wanted.client_id)

    def _carry_out(self, *changes: "Change") -> None:
        carry_out(changes, self.stack, self.kernel, self.log)


def check_unambiguous(wanted: "Interface", found: tuple[str, ...]) -> None:
    """Raise BootError when a static address could go to more than one interface."""
    if wanted.address and len(found) > 1:
        raise BootError(
            f"cannot give the address {wanted.address} to a network device",
            f"there are several: {', '.join(found)}",
            f"name one, as in ip={wanted.address}:::::{found[0]}:off",
        )


def combine(device: str, wanted: "Interface", lease: Answer | None = None) -> Settings:
    """Return what an interface gets: what `ip=` says wins over what DHCP says."""
    lease = lease or Answer(0, "")
    return Settings(
        device=device,
        address=wanted.address or lease.address,
        prefix=wanted.prefix or lease.prefix,
        gateway=wanted.gateway or lease.gateway,
        mtu=lease.mtu,
        names=Names(
            servers=wanted.dns or lease.dns,
            domain=wanted.domain or lease.domain,
            hostname=wanted.hostname or lease.hostname.partition(".")[0],
        ),
    )


def merge(every: "list[Names]") -> Names:
    """Return all name servers, each once, and the first domain and host name."""
    servers = dict.fromkeys(server for names in every for server in names.servers)
    return Names(
        tuple(servers),
        next((names.domain for names in every if names.domain), ""),
        next((names.hostname for names in every if names.hostname), ""),
    )
