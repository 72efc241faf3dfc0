"""`ip=`: from its text to what each interface shall be. Pure, and needs no import.

Source: the kernel's `Documentation/admin-guide/nfs/nfsroot.rst` and `net/ipv4/ipconfig.c`:
`client:server:gateway:netmask:host:device:autoconf:dns0:dns1:ntp0`, or the autoconf field alone.
An address makes the interface static; without one, DHCP is asked, and a field that is given wins
over what it answers. `server` and `ntp0` are checked and have no use here: they are for a root
over NFS and for whoever reads /proc/net/ipconfig.
"""

import itertools

from initrd.guest.network import ipv4
from initrd.options import CmdlineError
from initrd.record import Record

FIELDS = (
    *("client", "server", "gateway", "netmask", "host"),
    *("device", "autoconf", "dns0", "dns1", "ntp0"),
)
OFF = ("off", "none")
ANY = ("dhcp", "on", "any")
TOO_OLD = ("bootp", "rarp", "both")
# Bytes: __NEW_UTS_LEN, IFNAMSIZ, and an option of DHCP without its type.
_LONGEST_NAME, _LONGEST_DEVICE, _LONGEST_ID = 64, 15, 253


class Interface(Record):
    """What one `ip=` asks for. What is empty is left to DHCP, or to what is there."""

    device: str = ""
    address: str = ""  # empty: ask DHCP
    prefix: int = 0  # bits of the netmask
    gateway: str = ""
    dns: tuple[str, ...] = ()
    hostname: str = ""
    domain: str = ""
    client_id: bytes = b""  # DHCP option 61: a type and an identifier


def parse_ip(values: tuple[str, ...]) -> tuple[Interface, ...]:
    """Return the interfaces that `ip=` words ask for; none for `off`. Raises CmdlineError."""
    asked = [value for value in values if value not in OFF]
    if asked and len(asked) < len(values):
        raise CmdlineError(f"ip={asked[0]}: there is an ip=off too; keep one of them")
    interfaces = tuple(_parse(f"ip={value}", value) for value in asked)
    _check_devices(interfaces, asked)
    return interfaces


def _check_devices(interfaces: tuple[Interface, ...], values: list[str]) -> None:
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


def _parse(word: str, value: str) -> Interface:
    fields = _split(word, value)
    _check_addresses(word, fields)
    client_id = _autoconf(word, fields["autoconf"], fields["client"])
    hostname, _, domain = _name(word, fields["host"]).partition(".")
    interface = Interface(
        device=_device(word, fields["device"]),
        address=fields["client"],
        prefix=_prefix(word, fields["netmask"], fields["client"]),
        gateway=fields["gateway"],
        dns=tuple(dns for dns in (fields["dns0"], fields["dns1"]) if dns),
        hostname=hostname,
        domain=domain,
        client_id=client_id,
    )
    _check_gateway(word, interface)
    return interface


def _split(word: str, value: str) -> dict[str, str]:
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
    if len(parts) > 1 and parts[1].partition(",")[0] in (*ANY, *OFF):
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


def _autoconf(word: str, text: str, client: str) -> bytes:
    """Check how the interface gets its address; return the client identifier for DHCP."""
    method, comma, client_id = text.partition(",")
    if method in TOO_OLD:
        raise CmdlineError(f"{word}: {method} is not supported; write dhcp, or a static address")
    if method not in ("", *OFF, *ANY):
        raise CmdlineError(f"{word}: {method!r} is no way to get an address; write dhcp or off")
    if method == "dhcp" and client:
        raise CmdlineError(f"{word}: both dhcp and the address {client}; leave one of them out")
    if method in OFF and not client:
        raise CmdlineError(f"{word}: {method}, but no address; write ip=ADDRESS::GATEWAY:NETMASK…")
    return _client_id(word, client_id) if comma else b""


def _client_id(word: str, text: str) -> bytes:
    kind, _, identifier = text.partition(",")
    encoded = identifier.encode("utf-8", "surrogateescape")
    good = kind.isascii() and kind.isdigit() and int(kind) < 256
    if not good or not 0 < len(encoded) <= _LONGEST_ID:
        raise CmdlineError(f"{word}: not a client identifier; write dhcp,TYPE,IDENTIFIER")
    return bytes([int(kind)]) + encoded


def is_name(text: str) -> bool:
    """Tell whether `text` can be a host's or a domain's name, and be written to resolv.conf."""
    letters = text.replace("-", "").replace("_", "").replace(".", "")
    return letters.isascii() and letters.isalnum() and text[0] not in ".-" and ".." not in text


def _name(word: str, text: str) -> str:
    if text and (not is_name(text) or len(text.partition(".")[0]) > _LONGEST_NAME):
        raise CmdlineError(f"{word}: host {text!r} is not a name; write letters, digits and dashes")
    return text


def _device(word: str, text: str) -> str:
    bad = "/" in text or any(char.isspace() for char in text) or text in (".", "..", "lo")
    if bad or len(text.encode("utf-8", "surrogateescape")) > _LONGEST_DEVICE:
        raise CmdlineError(f"{word}: {text!r} is not the name of a device; write one like eth0")
    return text


def _prefix(word: str, netmask: str, client: str) -> int:
    if not netmask:
        return ipv4.class_prefix(client) if client else 0
    try:
        return ipv4.mask_prefix(ipv4.number(netmask))
    except ValueError as error:
        raise CmdlineError(
            f"{word}: {netmask!r} is not a netmask; write one like 255.255.255.0"
        ) from error


def _check_gateway(word: str, wanted: Interface) -> None:
    address, prefix, gateway = wanted.address, wanted.prefix, wanted.gateway
    # With a prefix of 32 there is no network to be in: some clouds are built like that.
    if not (address and gateway) or prefix == ipv4.BITS:
        return
    if not ipv4.same_network(address, gateway, prefix):
        raise CmdlineError(
            f"{word}: gateway {gateway} is not in the network of {address}/{prefix}; "
            "check it and the netmask"
        )
