"""Text of the system as bytes and back: what os.fsencode and os.fsdecode do, without `os`.

File names, environment and command line may hold any bytes; those that are no UTF-8 survive the
way there and back as surrogates (PEP 383).
"""


def encode(text: str) -> bytes:
    """Return the bytes that the kernel knows a name by."""
    return text.encode("utf-8", "surrogateescape")


def decode(data: bytes) -> str:
    """Return bytes of the kernel as text, whatever they are."""
    return data.decode("utf-8", "surrogateescape")
