"""Make inputs from others: change, remove, repeat and combine pieces of them."""

import random

_INTERESTING = (
    b"\0",
    b"\n",
    b"\xff",
    b"\xff\xff\xff\xff",
    b"\x7f\xff\xff\xff",
    b"\0\0\0\x80",
    b"\xff\xff\xff\xff\xff\xff\xff\x7f",
    b"-1",
    b"18446744073709551616",
    b"9" * 5000,
    b"..",
    b"/",
    b'"',
    b"=",
    b":",
    b",",
    b" ",
    b"\x1b[2J",
    b"\xf0\x9f\x98\x80",
    b"\xed\xa0\xbd",
)
MAX_SIZE = 1 << 17  # bytes of an input
_MAX_CHANGES = 6


def mutate(rng: random.Random, seeds: "tuple[bytes, ...]") -> bytes:
    """Return an input that is made from one or two of `seeds`."""
    data = bytearray(rng.choice(seeds))
    for _ in range(rng.randint(1, _MAX_CHANGES)):
        rng.choice(_CHANGES)(rng, data, seeds)
    return bytes(data[:MAX_SIZE])


def _span(rng: random.Random, data: bytearray) -> slice:
    """Return a piece of `data`; a short one is as likely as a long one."""
    start = rng.randint(0, len(data))
    return slice(start, start + (1 << rng.randint(0, 12)))


def _flip(rng: random.Random, data: bytearray, _: "tuple[bytes, ...]") -> None:
    if data:
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)


def _insert(rng: random.Random, data: bytearray, _: "tuple[bytes, ...]") -> None:
    at = rng.randint(0, len(data))
    data[at:at] = rng.choice(_INTERESTING)


def _overwrite(rng: random.Random, data: bytearray, _: "tuple[bytes, ...]") -> None:
    piece = rng.choice(_INTERESTING)
    at = rng.randint(0, len(data))
    data[at : at + len(piece)] = piece


def _randomize(rng: random.Random, data: bytearray, _: "tuple[bytes, ...]") -> None:
    span = _span(rng, data)
    data[span] = rng.randbytes(len(data[span]))


def _remove(rng: random.Random, data: bytearray, _: "tuple[bytes, ...]") -> None:
    del data[_span(rng, data)]


def _repeat(rng: random.Random, data: bytearray, _: "tuple[bytes, ...]") -> None:
    span = _span(rng, data)
    data[span] = data[span] * rng.choice((2, 3, 50))
    del data[MAX_SIZE:]


def _splice(rng: random.Random, data: bytearray, seeds: "tuple[bytes, ...]") -> None:
    other = bytearray(rng.choice(seeds))
    at = rng.randint(0, len(data))
    data[at:at] = other[_span(rng, other)]


_CHANGES = (_flip, _flip, _insert, _overwrite, _randomize, _remove, _repeat, _splice)
