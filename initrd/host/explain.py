"""What a user can do about a boot that failed: from the words of the kernel to ours."""

import re

from initrd.host.failure import HostError

_FAILED = "the boot failed"
# Patterns stay text, as in initrd.host.console.
_MEMORY = (
    r"System is deadlocked on memory|Out of memory and no killable|too little memory"
    r"|Initramfs unpacking failed"
)
_RESET = r"reset itself before its kernel"
_SMALL = 256 << 20  # bytes; with less, a kernel that resets the machine most likely lacked memory
_NO_MODULE = r"no module \w+ in the image"
_NO_INITRAMFS = r"Unable to mount root fs|No working init found"
_NO_TARGET = r"set init=PATH"
_KILLED = r"Out of memory: Killed process \d+ \((.*?)\)"


def explain(why: str, memory: int, kernel: str) -> HostError:
    """Return the error for a boot that failed for the reason `why`, which may have a hint already.

    `memory` is the guest's, in bytes; `kernel` the path of its kernel.
    """
    what, _, hint = why.removeprefix("boot failed: ").partition("\n")
    if re.search(_MEMORY, why) or (re.search(_RESET, why) and memory < _SMALL):
        return HostError(
            f"{_FAILED}: out of memory at {megabytes(memory)}",
            what,
            f"--memory {megabytes(2 * memory)}",
        )
    if re.search(_RESET, why):
        hint = f"another kernel: {kernel} is damaged, or not for this machine"
    if re.search(_NO_MODULE, why):
        hint = f"--modules DIR, the lib/modules/VERSION of {kernel}"
    if re.search(_NO_INITRAMFS, why):
        hint = f"another kernel: {kernel} does not start an initramfs (CONFIG_BLK_DEV_INITRD)"
    if re.search(_NO_TARGET, hint):
        hint = "a program of the root: chrootvm ROOTFS INIT"
    return HostError(_FAILED, what, hint.removeprefix("try: "))


def refused(text: str) -> HostError:
    """Return the error for what a command was to have and the root has not, in the guest's words.

    Names are the user's, and may hold anything: it stays one line.
    """
    what, _, why = text.replace("\n", "\\n").partition(": ")
    return HostError(what, why)


def out_of_memory(console: str, memory: int) -> str:
    """Return what to say when the guest's kernel killed something; empty when it did not."""
    killed = re.findall(_KILLED, console)
    if not killed:
        return ""
    return (
        f"the guest ran out of memory at {megabytes(memory)} and killed {', '.join(killed)}; "
        f"try --memory {megabytes(2 * memory)}"
    )


def megabytes(size: int) -> str:
    """Return a size as --memory takes it."""
    return f"{size >> 20}M"
