"""Adapt virtiofsd to a launch: to the guest's kernel, and to an overlay in the guest."""

from initrd.host.virtiofsd.killpriv import adapt_killpriv, explain_missing_killpriv
from initrd.host.virtiofsd.program import Virtiofsd
from initrd.host.virtiofsd.submounts import explain_submounts, find_submounts
from initrd.options import BootOptions, Share
from initrd.record import Record


class Sharing(Record):
    """How virtiofsd serves the shares, and what does not hold, each in one line or empty."""

    virtiofsd: Virtiofsd
    setuid_bits: str = ""  # why some stay where other kernels of the guest have them removed
    submounts: str = ""  # what the guest does not see of them

    @property
    def remarks(self) -> tuple[str, ...]:
        """What does not hold."""
        return tuple(filter(None, (self.setuid_bits, self.submounts)))


def plan_sharing(
    virtiofsd: Virtiofsd, shares: tuple[Share, ...], options: BootOptions, release: str
) -> Sharing:
    """Return how this virtiofsd serves the shares, the root first; `options`: of the boot.

    `release`: of the guest's kernel; empty: unknown.
    """
    root = shares[0]
    is_lower = options.root.kind.is_share and bool(options.overlay or options.bundles)
    adapted = adapt_killpriv(virtiofsd, release).replace(lower=root.tag if is_lower else "")
    return Sharing(
        adapted,
        explain_missing_killpriv(adapted, shares, release),
        explain_submounts(root.source, find_submounts(root.source)) if is_lower else "",
    )
