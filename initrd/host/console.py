"""What the guest printed on its console, and what that says about how it ended. Pure."""

import re

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


def ending(text: str) -> Ending:
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
