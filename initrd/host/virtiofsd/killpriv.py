"""virtiofsd's option killpriv_v2: whether the guest's kernel has it, and what is lost without.

The kernel then leaves it to virtiofsd to remove a file's setuid and setgid bits and its
capabilities when the file is written to, truncated, or given to another user. Linux has it since
5.11: FUSE_HANDLE_KILLPRIV_V2 in include/uapi/linux/fuse.h.
"""

from initrd.host.virtiofsd.program import Virtiofsd
from initrd.options import Share
from initrd.text import parse_natural

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

_OLDEST_KERNEL = (5, 11)


def adapt_killpriv(virtiofsd: Virtiofsd, release: str) -> Virtiofsd:
    """Return the virtiofsd without `killpriv` when it must not ask this guest's kernel for it.

    `release`: as `uname -r` prints it; empty when it is not known. The virtiofsd in C ends the
    connection to a kernel that lacks what it asks for. The one in Rust goes without.
    """
    version = parse_version(release)
    if version is None:
        return virtiofsd.replace(killpriv=virtiofsd.killpriv and virtiofsd.family == "rust")
    return virtiofsd.replace(killpriv=virtiofsd.killpriv and version >= _OLDEST_KERNEL)


def explain_missing_killpriv(adapted: Virtiofsd, shares: "Iterable[Share]", release: str) -> str:
    """Return why files of writable shares keep their setuid bits, and when; empty if they do not.

    `adapted`: the virtiofsd that `adapt_killpriv` has returned for this release.
    """
    if adapted.killpriv or not any(share.writable for share in shares):
        return ""
    version = parse_version(release)
    if version is None:
        why = "the version of the guest's kernel is not known, and 5.11 is needed"
    elif version < _OLDEST_KERNEL:
        why = f"the guest's kernel is {release}, and 5.11 is needed"
    else:
        why = f"{adapted.program} has no option for it"
    return f"a file that a user of the guest empties by opening it keeps its setuid bit: {why}"


def parse_version(release: str) -> tuple[int, int] | None:
    """Return the first two numbers of a kernel's release, such as `6.1-rc3`; None without them."""
    first, _, rest = release.partition(".")
    digits = len(rest) - len(rest.lstrip("0123456789"))
    major, minor = parse_natural(first), parse_natural(rest[:digits])
    return None if major is None or minor is None else (major, minor)
