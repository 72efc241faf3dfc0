"""QEMU's own system call filter (-sandbox): whether a QEMU was built with it.

QEMU has no option that tells. Without the filter it refuses the option; with it, a parameter that
does not exist. The answer is kept in the cache together with the state of the program's file.

Source: qemu-system(1); QEMU's softmmu/qemu-seccomp.c.
"""

from initrd.host.system.cached import QEMU_ANSWERS, Cache, CacheEntry, CacheFolder, open_cached
from initrd.host.system.hosterror import HostError
from initrd.host.system.process import capture_output, is_script

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

# QEMU must not run programs, get privileges, or change its priority and processors.
_DENIED = ("obsolete", "elevateprivileges", "spawn", "resourcecontrol")
SANDBOX = ("-sandbox", ",".join(("on", *(f"{group}=deny" for group in _DENIED))))
_PARAMETER = "initrd-probe"
_SIGN = f"Invalid parameter '{_PARAMETER}'".encode()
_KEPT = 4  # answers in the cache


def answer_to_probe(program: str) -> bytes:
    """Return what QEMU prints about a parameter that does not exist. Raises HostError."""
    return capture_output(program, "-sandbox", f"on,{_PARAMETER}=on")


def has_sandbox(
    program: str, cache: Cache, ask: "Callable[[str], bytes]" = answer_to_probe
) -> bool:
    """Return whether a QEMU has the filter; False for a program that cannot be run.

    A script is asked each time, because it may
    start another program without changing.
    """

    def make_entry() -> CacheEntry:
        return CacheEntry(ask(program), (program,))

    try:
        if is_script(program):
            return _SIGN in ask(program)
        folder = CacheFolder(cache, QEMU_ANSWERS, _KEPT)
        with open(open_cached(folder, program, make_entry), "rb") as file:
            file.seek(0)  # the offset of a file in memory is at its end
            return _SIGN in file.read()
    except HostError:  # the start of the machine reports why it cannot be run
        return False
