"""Explain why QEMU does not start: a disk image is in use.

QEMU's messages have neither the reason nor what to try, and are about words that the user has not
written.
"""

from initrd.errors import HostError
from initrd.host.qemu.argv import Setup

_LOCKING = ("Failed to get", "lock")  # `"write" lock`, `shared "write" lock`, `"consistent read"` …


def explain_refused_resource(text: str, setup: Setup) -> HostError | None:
    """Return the error for a message of QEMU; None for a message of another kind."""
    if setup.disks and all(part in text for part in _LOCKING):
        paths = [disk.path for disk in setup.disks]
        named = [path for path in paths if f"[{path}]" in text]
        subject = f"cannot use {' or '.join(named or paths)} as a disk"
        return HostError(subject, "another program is using it", "wait for that to end, or a copy")
    return None
