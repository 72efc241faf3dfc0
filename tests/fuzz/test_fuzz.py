"""Each target with some thousand inputs, the same ones in every run."""

import random

import pytest

from tests.fuzz.mutate import mutate
from tests.fuzz.targets import TARGETS

_INPUTS = 2000


@pytest.mark.parametrize("name", TARGETS)
def test_target_takes_any_input(name: str) -> None:
    target, rng = TARGETS[name], random.Random(name)
    for data in target.seeds:
        target.run(data)
    for number in range(_INPUTS):
        data = mutate(rng, target.seeds)
        try:
            target.run(data)
        except Exception:
            pytest.fail(f"input {number} of the target {name}: {data[:200]!r}")
