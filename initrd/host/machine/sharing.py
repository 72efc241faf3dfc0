"""Adapt virtiofsd to a launch: to the guest's kernel, to an overlay in the guest, to this host."""

import os

from initrd.host.virtiofsd import sandbox
from initrd.host.virtiofsd.killpriv import adapt_killpriv, explain_missing_killpriv
from initrd.host.virtiofsd.program import UNPROTECTED, Virtiofsd
from initrd.options import BootOptions, Share
from initrd.record import Record


class Sharing(Record):
    """How virtiofsd serves the shares, and what does not hold, each in one line or empty."""

    virtiofsd: Virtiofsd
    setuid_bits: str = ""  # why some stay where other kernels of the guest have them removed
    submounts: str = ""  # what the guest does not see of them
    sandbox: str = ""  # why it is weaker than elsewhere
    protection: str = ""  # what the guest can write to, though it is to be read-only

    @property
    def remarks(self) -> tuple[str, ...]:
        """What does not hold, and is for --verbose and --dry-run."""
        is_chroot = self.virtiofsd.sandbox == sandbox.CHROOT
        parts = (self.setuid_bits, self.submounts, self.sandbox if is_chroot else "")
        return tuple(filter(None, parts))

    @property
    def warnings(self) -> tuple[str, ...]:
        """What does not hold, and is for standard error."""
        is_none = self.virtiofsd.sandbox == sandbox.NONE
        return tuple(filter(None, (self.sandbox if is_none else "", self.protection)))


def plan_sharing(
    virtiofsd: Virtiofsd, shares: tuple[Share, ...], options: BootOptions, release: str
) -> Sharing:
    """Return how a virtiofsd of `program.confine` serves the shares, the root first.

    `options`: of the boot; `release`: of the guest's kernel; empty: unknown.
    """
    root = shares[0]
    is_lower = options.root.kind.is_share and bool(options.overlay or options.bundles)
    adapted = adapt_killpriv(virtiofsd, release).replace(lower=root.tag if is_lower else "")
    return Sharing(
        adapted,
        explain_missing_killpriv(adapted, shares, release),
        _explain_submounts(root.source) if is_lower else "",
        _explain_sandbox(adapted, shares),
        _explain_protection(adapted, shares),
    )


def _explain_submounts(directory: str) -> str:
    from initrd.host.virtiofsd import submounts  # noqa: PLC0415 - only with an overlay

    return submounts.explain_submounts(directory, submounts.find_submounts(directory))


def _explain_sandbox(virtiofsd: Virtiofsd, shares: tuple[Share, ...]) -> str:
    """Return why the sandbox of the virtiofsd in Rust is weak, and what that means."""
    sources = ", ".join(share.source for share in shares if share.source != "/")
    if virtiofsd.family == "c" or not virtiofsd.obstacle or not sources:
        return ""
    if virtiofsd.sandbox == sandbox.CHROOT:
        return f"virtiofsd is in a chroot, without namespaces of its own ({virtiofsd.obstacle})"
    is_root = os.geteuid() == 0
    return (
        f"virtiofsd gets no namespaces ({virtiofsd.obstacle}) and runs without a sandbox: only its "
        f"own code keeps the guest in {sources}, and a guest that takes it over has the rights of "
        f"this user; try: {sandbox.namespace_hint(root=is_root)}"
    )


def _explain_protection(virtiofsd: Virtiofsd, shares: tuple[Share, ...]) -> str:
    """Return which shares are read-only in the guest only, where the options allow that."""
    sources = [share.source for share in shares if not virtiofsd.can_protect(share)]
    if not virtiofsd.unprotected or not sources:
        return ""
    names = ", ".join(sources)
    return f"root in the guest can write to {names}: the host does not prevent it ({UNPROTECTED})"
