"""QEMU's own system call filter (-sandbox): whether a QEMU was built with it.

QEMU has no option that tells. Without the filter it refuses the option; with it, a parameter that
does not exist. The answer is kept in the cache together with the state of the program's file.

Source: qemu-system(1); QEMU's system/qemu-seccomp.c.
"""

from initrd.host.system.cached import QEMU_ANSWERS, Cache, CacheFolder, read_answer
from initrd.host.system.hosterror import HostError
from initrd.host.system.process import capture_output

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

# QEMU must not run programs, get privileges, or change its priority and processors.
_DENIED = ("obsolete", "elevateprivileges", "spawn", "resourcecontrol")
SANDBOX = ("-sandbox", ",".join(("on", *(f"{group}=deny" for group in _DENIED))))
_PARAMETER = "initrd-probe"
_SIGN = f"Invalid parameter '{_PARAMETER}'".encode()
_SUBJECT = b"sandbox"  # is in each answer about the option
_KEPT = 4  # answers in the cache


def answer_to_probe(program: str) -> bytes:
    """Return what QEMU prints about a parameter that does not exist. Raises HostError."""
    return capture_output(program, "-sandbox", f"on,{_PARAMETER}=on")


def has_sandbox(
    program: str, cache: Cache, ask: "Callable[[str], bytes]" = answer_to_probe
) -> bool:
    """Return whether a QEMU has the filter; False for a program that cannot be run.

    An output that is no answer is not kept: a missing library may be the reason.
    """

    def ask_about_option(program: str) -> bytes:
        answer = ask(program)
        if _SUBJECT not in answer:
            raise HostError(f"cannot ask {program} about -sandbox", "it prints no answer")
        return answer

    try:
        folder = CacheFolder(cache, QEMU_ANSWERS, _KEPT)
        return _SIGN in read_answer(folder, program, ask_about_option)
    except HostError:  # the start of the machine reports why it cannot be run
        return False
