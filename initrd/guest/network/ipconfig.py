"""Parse `ip=` into the configuration of each interface. Pure functions.

Source: the kernel's `Documentation/admin-guide/nfs/nfsroot.rst` and `net/ipv4/ipconfig.c`:
`client:server:gateway:netmask:host:device:autoconf:dns0:dns1:ntp0`, or the autoconf field alone.
With a client address the interface is static. Without one, DHCP is used, and a field that is given
takes precedence over the lease. `server` and `ntp0` are checked and not used: they are for a root
over NFS and for readers of /proc/net/ipconfig.
"""

import itertools

from initrd.guest.network import ipv4
from initrd.options import CmdlineError
from initrd.record import Record

FIELDS = (
    *("client", "server", "gateway", "netmask", "host"),
    *("device", "autoconf", "dns0", "dns1", "ntp0"),
)
# Values of the field autoconf.
AUTOCONF_OFF = ("off", "none")
AUTOCONF_DHCP = ("dhcp", "on", "any")
AUTOCONF_UNSUPPORTED = ("bootp", "rarp", "both")
# Bytes: __NEW_UTS_LEN, IFNAMSIZ, and a DHCP client identifier without its type.
_MAX_HOSTNAME, _MAX_DEVICE, _MAX_CLIENT_ID = 64, 15, 253


class InterfaceRequest(Record):
    """The configuration in one `ip=`. Empty fields are taken from the lease or chosen by /init."""

    device: str = ""  # empty: any Ethernet interface
    address: str = ""  # empty: use DHCP
    prefix: int = 0  # bits of the netmask
    gateway: str = ""
    dns: tuple[str, ...] = ()
    hostname: str = ""
    domain: str = ""
    client_id: bytes = b""  # DHCP option 61: a type and an identifier


def parse_ip(values: tuple[str, ...]) -> tuple[InterfaceRequest, ...]:
    """Return the interfaces that the values of `ip=` configure; none for `off`.

    Raises CmdlineError.
    """
    active = [value for value in values if value not in AUTOCONF_OFF]
    if active and len(active) < len(values):
        raise CmdlineError(f"ip={active[0]}: there is an ip=off too; keep one of them")
    interfaces = tuple(_parse(f"ip={value}", value) for value in active)
    _check_devices(interfaces, active)
    return interfaces


def _check_devices(interfaces: tuple[InterfaceRequest, ...], values: list[str]) -> None:
    devices = [interface.device for interface in interfaces]
    for value, device in zip(values, devices, strict=True):
        if len(devices) > 1 and not device:
            raise CmdlineError(
                f"ip={value}: which device? With more than one ip=, each must name its own: "
                "write ip=:::::eth0:dhcp"
            )
    for device, other in itertools.pairwise(sorted(devices)):
        if device == other:
            raise CmdlineError(f"ip=: device {device} is configured twice; keep one ip= for it")


def _parse(word: str, value: str) -> InterfaceRequest:
    fields = _split_fields(word, value)
    _check_addresses(word, fields)
    client_id = _parse_autoconf(word, fields["autoconf"], fields["client"])
    _check_hostname(word, fields["host"])
    _check_device(word, fields["device"])
    hostname, _, domain = fields["host"].partition(".")
    interface = InterfaceRequest(
        device=fields["device"],
        address=fields["client"],
        prefix=_parse_netmask(word, fields["netmask"], fields["client"]),
        gateway=fields["gateway"],
        dns=tuple(dns for dns in (fields["dns0"], fields["dns1"]) if dns),
        hostname=hostname,
        domain=domain,
        client_id=client_id,
    )
    _check_gateway(word, interface)
    return interface


def _split_fields(word: str, value: str) -> dict[str, str]:
    if "[" in value:
        raise CmdlineError(
            f"{word}: only IPv4 is understood here; IPv6 the kernel configures by itself, "
            "where a router announces it"
        )
    parts = value.split(":")
    if len(parts) > len(FIELDS):
        raise CmdlineError(f"{word}: more than {len(FIELDS)} fields; write ip={':'.join(FIELDS)}")
    if len(parts) == 1 and not value[:1].isdigit():
        parts = [""] * FIELDS.index("autoconf") + parts
    if len(parts) > 1 and parts[1].partition(",")[0] in (*AUTOCONF_DHCP, *AUTOCONF_OFF):
        raise CmdlineError(
            f"{word}: the device is the sixth field; write ip=:::::{parts[0]}:{parts[1]}"
        )
    return dict(itertools.zip_longest(FIELDS, parts, fillvalue=""))


def _check_addresses(word: str, fields: dict[str, str]) -> None:
    for name in ("client", "server", "gateway", "dns0", "dns1", "ntp0"):
        if fields[name] and not ipv4.is_host(fields[name]):
            raise CmdlineError(
                f"{word}: {name} {fields[name]!r} is not the IPv4 address of a host; "
                "write four numbers, as in 10.0.2.15"
            )


def _parse_autoconf(word: str, text: str, client: str) -> bytes:
    """Check the field autoconf; return the DHCP client identifier in it, empty without one."""
    method, comma, client_id = text.partition(",")
    if method in AUTOCONF_UNSUPPORTED:
        raise CmdlineError(f"{word}: {method} is not supported; write dhcp, or a static address")
    if method not in ("", *AUTOCONF_OFF, *AUTOCONF_DHCP):
        raise CmdlineError(f"{word}: {method!r} is no way to get an address; write dhcp or off")
    if method == "dhcp" and client:
        raise CmdlineError(f"{word}: both dhcp and the address {client}; leave one of them out")
    if method in AUTOCONF_OFF and not client:
        raise CmdlineError(f"{word}: {method}, but no address; write ip=ADDRESS::GATEWAY:NETMASK…")
    return _parse_client_id(word, client_id) if comma else b""


def _parse_client_id(word: str, text: str) -> bytes:
    kind, _, identifier = text.partition(",")
    encoded = identifier.encode("utf-8", "surrogateescape")
    is_octet = kind.isascii() and kind.isdigit() and int(kind) < 256
    if not is_octet or not 0 < len(encoded) <= _MAX_CLIENT_ID:
        raise CmdlineError(f"{word}: not a client identifier; write dhcp,TYPE,IDENTIFIER")
    return bytes([int(kind)]) + encoded


def is_name(text: str) -> bool:
    """Return whether `text` is a host or domain name that is safe to write to resolv.conf."""
    letters = text.replace("-", "").replace("_", "").replace(".", "")
    return letters.isascii() and letters.isalnum() and text[0] not in ".-" and ".." not in text


def _check_hostname(word: str, text: str) -> None:
    if text and (not is_name(text) or len(text.partition(".")[0]) > _MAX_HOSTNAME):
        raise CmdlineError(f"{word}: host {text!r} is not a name; write letters, digits and dashes")


def _check_device(word: str, text: str) -> None:
    invalid = "/" in text or any(char.isspace() for char in text) or text in (".", "..", "lo")
    if invalid or len(text.encode("utf-8", "surrogateescape")) > _MAX_DEVICE:
        raise CmdlineError(f"{word}: {text!r} is not the name of a device; write one like eth0")


def _parse_netmask(word: str, netmask: str, client: str) -> int:
    """Return the prefix; without a netmask that of the client's class, without a client 0."""
    if not netmask:
        return ipv4.class_prefix(client) if client else 0
    try:
        return ipv4.mask_prefix(ipv4.parse_address(netmask))
    except ValueError as error:
        raise CmdlineError(
            f"{word}: {netmask!r} is not a netmask; write one like 255.255.255.0"
        ) from error


def _check_gateway(word: str, interface: InterfaceRequest) -> None:
    address, prefix, gateway = interface.address, interface.prefix, interface.gateway
    # A prefix of 32 leaves no network that could hold the gateway: some clouds use one.
    if not (address and gateway) or prefix == ipv4.BITS:
        return
    if not ipv4.is_same_network(address, gateway, prefix):
        raise CmdlineError(
            f"{word}: gateway {gateway} is not in the network of {address}/{prefix}; "
            "check it and the netmask"
        )
