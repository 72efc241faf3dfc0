"""Convert between bytes and text as os.fsencode and os.fsdecode, without `os`; parse numbers.

File names, environment and command line may contain any bytes. Bytes that are not valid UTF-8
become surrogates and are converted back without loss (PEP 383).
"""

_MAX_DIGITS = 18  # always fits into 64 bits; int() raises ValueError for thousands of digits


def encode(text: str) -> bytes:
    """Return the bytes of a name for the kernel."""
    return text.encode("utf-8", "surrogateescape")


def decode(data: bytes) -> str:
    """Return bytes from the kernel as text. Raises nothing."""
    return data.decode("utf-8", "surrogateescape")


def parse_natural(text: str) -> int | None:
    """Return the number in `text`, 1 to 18 decimal digits; None for other text. Raises nothing."""
    if text.isascii() and text.isdigit() and len(text) <= _MAX_DIGITS:
        return int(text)
    return None
