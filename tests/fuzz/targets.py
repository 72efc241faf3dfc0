"""All targets, by name."""

from tests.fuzz import file_targets, guest_targets, host_targets, job_targets, root_targets
from tests.fuzz.target import Target

_GROUPS = (guest_targets, job_targets, host_targets, file_targets, root_targets)
TARGETS: dict[str, Target] = {target.name: target for group in _GROUPS for target in group.TARGETS}
