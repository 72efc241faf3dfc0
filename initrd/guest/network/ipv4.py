"""Convert IPv4 addresses and netmasks between text, bytes and numbers. Pure functions.

The standard library's `ipaddress` has the same functions and takes a hundred times as long to
import.
"""

BITS = 32


def parse_address(text: str) -> int:
    """Return an address as a number. Raises ValueError unless `text` is a dotted quad."""
    parts = text.split(".")
    # A leading zero is refused: some programs read it as octal.
    if len(parts) != 4 or not all(
        part.isascii() and part.isdigit() and str(int(part)) == part and int(part) < 256
        for part in parts
    ):
        raise ValueError(f"{text!r} is not an IPv4 address")
    return int.from_bytes(bytes(int(part) for part in parts), "big")


def format_address(octets: bytes) -> str:
    """Return four octets as a dotted quad."""
    return ".".join(str(octet) for octet in octets)


def pack_address(text: str) -> bytes:
    """Return the four octets of an address. Raises ValueError."""
    return parse_address(text).to_bytes(4, "big")


def is_host(text: str) -> bool:
    """Return whether `text` is an address that a host can have: 1.0.0.0 to 223.255.255.255."""
    try:
        return 1 << 24 <= parse_address(text) < 0xE000_0000
    except ValueError:
        return False


def mask_prefix(mask: int) -> int:
    """Return the number of bits set in a netmask. Raises ValueError when they have a gap."""
    prefix = mask.bit_count()
    if mask != _mask(prefix) or not prefix:
        raise ValueError(f"{format_address(mask.to_bytes(4, 'big'))} is not a netmask")
    return prefix


def class_prefix(address: str) -> int:
    """Return the prefix of an address's class: the kernel's default when no netmask is given."""
    first = parse_address(address) >> 24
    return 8 if first < 128 else 16 if first < 192 else 24


def is_same_network(one: str, other: str, prefix: int) -> bool:
    """Return whether the first `prefix` bits of two addresses are equal."""
    return (parse_address(one) ^ parse_address(other)) & _mask(prefix) == 0


def broadcast_address(address: str, prefix: int) -> str:
    """Return the broadcast address of a network; empty for a prefix of 31 or 32, which has none."""
    if prefix > BITS - 2:
        return ""
    number = parse_address(address) | ~_mask(prefix) & _mask(BITS)
    return format_address(number.to_bytes(4, "big"))


def _mask(prefix: int) -> int:
    return (1 << BITS) - (1 << BITS - prefix)
