"""Each target with its seeds and some hundred or thousand inputs, the same ones in every run."""

import random

import pytest

from tests.fuzz.mutate import mutate
from tests.fuzz.targets import TARGETS


@pytest.mark.parametrize("name", TARGETS)
def test_target_takes_any_input(name: str) -> None:
    target, rng = TARGETS[name], random.Random(name)
    for data in target.seeds:
        target.run(data)
    for number in range(target.inputs):
        data = mutate(rng, target.seeds)
        try:
            target.run(data)
        except Exception:
            pytest.fail(f"input {number} of the target {name}: {data[:200]!r}")
