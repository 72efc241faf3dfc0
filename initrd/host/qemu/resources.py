"""Explain why QEMU does not start: a port or a disk image of the host is in use, or gone.

QEMU's messages have neither the reason nor what to try, and are about words that the user has not
written.
"""

import socket

from initrd.errors import reason
from initrd.host.qemu.argv import PublishedPort, Setup
from initrd.host.system.hosterror import HostError

_FORWARDING = "Could not set up host forwarding rule"
_LOCKING = ("Failed to get", "lock")  # `"write" lock`, `shared "write" lock`, `"consistent read"` …


def explain_refused_resource(text: str, setup: Setup) -> HostError | None:
    """Return the error for a message of QEMU; None for a message of another kind."""
    if _FORWARDING in text:
        for port in setup.published:
            if f"'{port.rule}'" in text:
                return explain_port(port, find_port_problem(port) or "QEMU cannot listen there")
        return None
    for disk in setup.disks:  # it was removed after chrootvm had locked it
        _, found, why = text.partition(f"Could not open '{disk.path}': ")
        if found:
            return HostError(f"cannot use {disk.path} as a disk", why)
    if setup.disks and all(part in text for part in _LOCKING):
        paths = [disk.path for disk in setup.disks]
        named = [path for path in paths if f"[{path}]" in text]
        subject = f"cannot use {' or '.join(named or paths)} as a disk"
        return HostError(subject, "another program is using it", "wait for that to end, or a copy")
    return None


def explain_port(port: PublishedPort, why: str) -> HostError:
    """Return the error for a port of the host at which nothing can listen."""
    return HostError(f"cannot publish {port.name}", why, "another HOSTPORT")


def find_port_problem(port: PublishedPort) -> str:
    """Return why this process, and so QEMU, cannot listen at a port; empty if it can."""
    with socket.socket() as attempt:
        attempt.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            attempt.bind((port.address, port.host_port))
            attempt.listen(1)
        except OSError as error:
            return reason(error)
    return ""
