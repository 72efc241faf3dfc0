"""The host's targets of the fuzzers take their seeds, and some random changes of them."""

import random

import pytest

from tests.fuzz.host_targets import FUZZERS

CASES = 300


def change(data: bytes, numbers: random.Random) -> bytes:
    """Return `data` with some bytes replaced, removed, repeated or inserted."""
    changed = bytearray(data)
    for _ in range(numbers.randint(1, 6)):
        start = numbers.randint(0, len(changed))
        end = min(len(changed), start + numbers.choice([0, 1, 2, 8, 30]))
        piece = bytes(changed[start:end])
        random_bytes = numbers.randbytes(numbers.randint(0, 9))
        repeated = piece * numbers.choice([2, 3, 100])
        changed[start:end] = numbers.choice([b"", random_bytes, repeated, piece + b"\n", b"9" * 20])
    return bytes(changed)


@pytest.mark.parametrize("name", FUZZERS)
def test_host_handles_what_the_guest_sends(name: str) -> None:
    run, seeds = FUZZERS[name]
    numbers = random.Random(12)
    for seed in seeds:
        run(seed)
    for _ in range(CASES):
        run(change(numbers.choice(seeds), numbers))
