"""What the guest printed on its console, and what that says about how it ended. Pure."""

import os
import re
import time

from initrd.errors import HostError
from initrd.host.system.files import replace_file
from initrd.record import Record

_KEPT = 1 << 20  # bytes; a failed boot ends with the reason
# Patterns stay text: most machines end without a use for them, and compiling takes milliseconds.
_FAILURE = r"initrd: (?:boot failed|cannot start): "
_RESET = "the machine reset itself before its kernel said a word"
_LAST_WORDS = "powering off"
_OURS = r"(?:\[ *\d+\.\d+\] )?initrd: (.*)"
_KERNELS = r"\[ *\d+\.\d+\] "
_PANIC = r"Kernel panic - not syncing: (.*)"
_INIT_EXITED = r"Attempted to kill init! exitcode=0x([0-9a-f]{8})"
_FAILED = "the boot failed"
# Patterns stay text, as in initrd.host.qemu.console.
_MEMORY = (
    r"System is deadlocked on memory|Out of memory and no killable|too little memory"
    r"|Initramfs unpacking failed"
)
_RESET_PATTERN = r"reset itself before its kernel"
_SMALL = 256 << 20  # bytes; with less, a kernel that resets the machine most likely lacked memory
_NO_MODULE = r"no module \w+ in the image"
_NO_INITRAMFS = r"Unable to mount root fs|No working init found"
_NO_TARGET = r"set init=PATH"
_KILLED = r"Out of memory: Killed process \d+ \((.*?)\)"
_LOGS_KEPT = 10


class Ending(Record):
    """How a guest ended: its target's status, or why there is none."""

    status: int = 0  # exit status of the target; -N after signal N
    failure: str = ""  # the boot failed: why, for the user


class ConsoleLog:
    """The end of what the guest printed."""

    def __init__(self) -> None:
        self._data = bytearray()

    def see(self, data: bytes) -> None:
        """Take what was printed."""
        self._data += data
        if len(self._data) > 2 * _KEPT:
            del self._data[:-_KEPT]

    @property
    def text(self) -> str:
        """Return it with line ends as here."""
        return self._data.decode(errors="replace").replace("\r", "")


def parse_ending(text: str) -> Ending:
    """Return how the guest ended that printed `text`."""
    if not text:  # even a machine that powers off at once prints that
        return Ending(failure=_RESET)
    lines = [line for line in text.splitlines() if line.strip()]
    failure = boot_failure(lines)
    if failure:
        return Ending(failure=failure)
    panics = re.findall(_PANIC, text)
    if not panics:
        return Ending()
    exited = re.search(_INIT_EXITED, panics[-1])
    if not exited:
        return Ending(failure=f"the kernel panicked: {panics[-1]}")
    return Ending(_exit_code(int(exited[1], 16)))


def boot_failure(lines: list[str]) -> str:
    """Return what `/init` says last, if that is why it gives up; empty otherwise.

    After its words only the kernel's own may follow: a target that prints such words goes on.
    """
    said: list[str] = []
    for line in reversed(lines):
        ours = re.fullmatch(_OURS, line)
        if ours:
            said = [ours[1], *said] if ours[1] != _LAST_WORDS else said
        elif said or not re.match(_KERNELS, line):
            break
        if re.search(_FAILURE, line):
            return "\n".join([said[0].partition(": ")[2], *said[1:]])
    return ""


def _exit_code(wait_status: int) -> int:
    """Return the exit status, or -N after signal N, from a status of wait(2)."""
    signal = wait_status & 0x7F
    return -signal if signal else wait_status >> 8 & 0xFF


def explain_boot_failure(why: str, memory: int, kernel: str) -> HostError:
    """Return the error for a boot that failed for the reason `why`, which may have a hint already.

    `memory` is the guest's, in bytes; `kernel` the path of its kernel.
    """
    what, _, hint = why.removeprefix("boot failed: ").partition("\n")
    if re.search(_MEMORY, why) or (re.search(_RESET_PATTERN, why) and memory < _SMALL):
        return HostError(
            f"{_FAILED}: out of memory at {megabytes(memory)}",
            what,
            f"--memory {megabytes(2 * memory)}",
        )
    if re.search(_RESET_PATTERN, why):
        hint = f"another kernel: {kernel} is damaged, or not for this machine"
    if re.search(_NO_MODULE, why):
        hint = f"--modules DIR, the lib/modules/VERSION of {kernel}"
    if re.search(_NO_INITRAMFS, why):
        hint = f"another kernel: {kernel} does not start an initramfs (CONFIG_BLK_DEV_INITRD)"
    if re.search(_NO_TARGET, hint):
        hint = "a program of the root: chrootvm ROOTFS INIT"
    return HostError(_FAILED, what, hint.removeprefix("try: "))


def explain_refusal(text: str) -> HostError:
    """Return the error for what a command was to have and the root has not, in the guest's words.

    Names are the user's, and may hold anything: it stays one line.
    """
    what, _, why = text.replace("\n", "\\n").partition(": ")
    return HostError(what, why)


def explain_oom_kill(console: str, memory: int) -> str:
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


def save_console_log(folder: str, text: str, now: float | None = None) -> str:
    """Keep a console's text in `folder`; return where, or nothing if that cannot be.

    `now`: seconds since the epoch. The names sort by time.
    """
    moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(now))
    path = os.path.join(folder, f"{moment}-{os.urandom(3).hex()}.log")
    try:
        os.makedirs(folder, mode=0o700, exist_ok=True)
        replace_file(path, text.encode(errors="surrogateescape"), 0o600)
        for old in sorted(name for name in os.listdir(folder) if name.endswith(".log"))[
            :-_LOGS_KEPT
        ]:
            os.unlink(os.path.join(folder, old))
    except FileNotFoundError:  # another one has removed the oldest just now
        pass
    except OSError:  # no home, or a full one: the reason is told all the same
        return ""
    return path
