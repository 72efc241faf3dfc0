"""IPv4 addresses as text, and what follows from a netmask. Pure.

The standard library's `ipaddress` would do all of this, at a hundred times the cost to import.
"""

BITS = 32


def number(text: str) -> int:
    """Return an address as a number. Raises ValueError unless `text` is a dotted quad."""
    parts = text.split(".")
    # A leading zero is refused: some programs read it as octal.
    if len(parts) != 4 or not all(
        part.isascii() and part.isdigit() and str(int(part)) == part and int(part) < 256
        for part in parts
    ):
        raise ValueError(f"{text!r} is not an IPv4 address")
    return int.from_bytes(bytes(int(part) for part in parts), "big")


def dotted(octets: bytes) -> str:
    """Return four octets as text."""
    return ".".join(str(octet) for octet in octets)


def packed(text: str) -> bytes:
    """Return the four octets of an address. Raises ValueError."""
    return number(text).to_bytes(4, "big")


def is_host(text: str) -> bool:
    """Tell whether `text` is an address that one host can have: no multicast, not all zeros."""
    try:
        return 1 << 24 <= number(text) < 0xE000_0000
    except ValueError:
        return False


def mask_prefix(mask: int) -> int:
    """Return the number of bits that a netmask sets. Raises ValueError when there is a gap."""
    prefix = mask.bit_count()
    if mask != _mask(prefix) or not prefix:
        raise ValueError(f"{dotted(mask.to_bytes(4, 'big'))} is not a netmask")
    return prefix


def class_prefix(address: str) -> int:
    """Return the prefix of an address's class: what the kernel takes when no netmask is given."""
    first = number(address) >> 24
    return 8 if first < 128 else 16 if first < 192 else 24


def same_network(one: str, other: str, prefix: int) -> bool:
    """Tell whether two addresses share their first `prefix` bits."""
    return (number(one) ^ number(other)) & _mask(prefix) == 0


def broadcast(address: str, prefix: int) -> str:
    """Return the address of everybody in a network; nothing for one of one or two hosts."""
    if prefix > BITS - 2:
        return ""
    return dotted((number(address) | ~_mask(prefix) & _mask(BITS)).to_bytes(4, "big"))


def _mask(prefix: int) -> int:
    return (1 << BITS) - (1 << BITS - prefix)
