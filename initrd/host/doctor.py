"""chrootvm --doctor: whether a directory will boot here, said without booting it.

Each check asks the code that launches: where that raises an error, the check reports it. So the two
cannot come to different answers.
"""

from initrd.host import finding, herechecks, launch, rootchecks
from initrd.host.arch import find_arch
from initrd.host.failure import HostError
from initrd.host.finding import MISSING, Finding, Patient
from initrd.host.machine import Machine
from initrd.host.voice import show

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

_ANY_INIT = "/bin/sh"  # which one it is does not matter, and it need not be there

CHECKS: "tuple[tuple[str, Callable[[Patient], Finding | None]], ...]" = (
    ("kernel", rootchecks.kernel),
    ("modules", rootchecks.modules),
    ("-- COMMAND", rootchecks.streams),
    ("init", rootchecks.init),
    ("command", rootchecks.command),
    ("/init", herechecks.init_program),
    ("virtiofsd", herechecks.server),
    ("open files", herechecks.open_files),
    ("permissions", herechecks.permissions),
    ("overlay", herechecks.overlay),
    ("QEMU", herechecks.qemu),
    ("accelerator", herechecks.accelerator),
    ("memory", herechecks.memory),
)


def doctor(machine: Machine, environment: "Mapping[str, str]") -> int:
    """Print what was found; return the exit status. Raises HostError for wishes that are none."""
    findings = examine(machine, environment)
    show("\n".join((finding.table(findings), finding.verdict(findings))))
    return int(any(one.state == MISSING for one in findings))


def examine(machine: Machine, environment: "Mapping[str, str]") -> tuple[Finding, ...]:
    """Return what was found. Raises HostError for wishes that cannot be understood."""
    launch.check(machine)
    arch = find_arch(machine.arch)
    cmdline = launch.command_line(machine.replace(init=_ANY_INIT), arch, "tcg")
    patient = Patient(machine, environment, arch, launch.wanted(machine, cmdline))
    found = (_examined(subject, look, patient) for subject, look in CHECKS)
    return tuple(one for one in found if one is not None)


def _examined(
    subject: str, look: "Callable[[Patient], Finding | None]", patient: Patient
) -> Finding | None:
    try:
        return look(patient)
    except HostError as error:
        return finding.missing(subject, error)
