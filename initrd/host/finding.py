"""What --doctor has found: one line for each check, and the verdict. Pure."""

from initrd.host.arch import Arch
from initrd.host.failure import HostError
from initrd.host.machine import Machine
from initrd.host.needs import Need
from initrd.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

OK, WARNING, MISSING = "ok", "warning", "missing"
_STATE_WIDTH, _SUBJECT_WIDTH = 8, 12


class Patient(Record):
    """What is examined: a machine that somebody wants, on the one that is here."""

    machine: Machine
    environment: "Mapping[str, str]"
    arch: Arch
    needs: tuple[Need, ...]


class Finding(Record):
    """How it stands with one thing that a boot needs."""

    subject: str
    state: str  # OK; WARNING: it will boot all the same; MISSING: it will not
    text: str
    hint: str = ""  # what to try


def missing(subject: str, error: HostError) -> Finding:
    """Return the finding that launching would fail with this error."""
    return Finding(subject, MISSING, f"{error.what}: {error.why}", error.hint)


def table(findings: "Iterable[Finding]") -> str:
    """Return the lines for people."""
    return "\n".join(map(_line, findings))


def verdict(findings: "Iterable[Finding]") -> str:
    """Return the last line: whether it will boot."""
    lacking = [finding.subject for finding in findings if finding.state == MISSING]
    return f"it will not boot: see {', '.join(lacking)}" if lacking else "it will boot"


def _line(finding: Finding) -> str:
    margin = " " * (_STATE_WIDTH + _SUBJECT_WIDTH + 2)
    head = f"{finding.state:{_STATE_WIDTH}} {finding.subject:{_SUBJECT_WIDTH}} "
    text = finding.text.replace("\n", f"\n{margin}")
    return head + text + (f"\n{margin}try: {finding.hint}" if finding.hint else "")
