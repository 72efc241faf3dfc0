"""Text of the system as bytes and back: what os.fsencode and os.fsdecode do, without `os`.

File names, environment and command line may hold any bytes; those that are no UTF-8 survive the
way there and back as surrogates (PEP 383).
"""

_MOST_DIGITS = 18  # a number of 64 bits holds that many; int() itself raises for thousands


def encode(text: str) -> bytes:
    """Return the bytes that the kernel knows a name by."""
    return text.encode("utf-8", "surrogateescape")


def decode(data: bytes) -> str:
    """Return bytes of the kernel as text, whatever they are."""
    return data.decode("utf-8", "surrogateescape")


def parse_natural(text: str) -> int | None:
    """Return the number that `text` is in decimal digits; None for all else. Raises nothing."""
    if text.isascii() and text.isdigit() and len(text) <= _MOST_DIGITS:
        return int(text)
    return None
