"""All targets, by name."""

from tests.fuzz import guest_targets
from tests.fuzz.target import Target

TARGETS: dict[str, Target] = {target.name: target for target in guest_targets.TARGETS}
