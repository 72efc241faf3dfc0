"""When a boot did what: the host's phases as they are told, the guest's as `/init` says them.

With `debug`, /init says each step on the console with its duration and with the guest's time. The
line that came with the least delay tells when that clock started. What lies between two phases that
are known is left empty.
"""

import os
import re
import time

from initrd.host.machine.run import (
    PHASE_COMMAND,
    PHASE_END,
    PHASE_KERNEL,
    PHASE_PREPARE,
    PHASE_START,
    BootObserver,
)
from initrd.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

HAND_OVER = "start the command"
_STEP = re.compile(rb"^initrd: (.*) \[(\d+\.\d) ms, at (\d+\.\d+) s\]\r?$", re.MULTILINE)
_KERNEL = "the kernel"  # as /init says it
_HOST, _GUEST, _INIT = "host", "kernel", "init"
_KINDS = {
    PHASE_PREPARE: _HOST,
    PHASE_START: _HOST,
    PHASE_KERNEL: _GUEST,
    PHASE_COMMAND: "command",
    PHASE_END: _HOST,
}


class Phase(Record):
    """One bar of the picture. Times in milliseconds since the process was started."""

    name: str
    kind: str  # `host`, `kernel`, `init` or `command`
    start: float
    length: float

    @property
    def end(self) -> float:
        """When it was over."""
        return self.start + self.length


class Timeline(BootObserver):
    """Keeps what it is told, and when."""

    def __init__(self, now: "Callable[[], float]" = time.monotonic, age: float = 0.0) -> None:
        """Begin. `age`: for how many seconds the process has run already."""
        self._now = now
        self._begin = now() - age
        self._marks = [(PHASE_PREPARE, 0.0)]
        self._steps: list[Phase] = []  # by the guest's clock
        self._delays: list[float] = []  # milliseconds from the guest's clock to ours
        self._line = b""

    def phase_started(self, name: str) -> None:
        """Something begins: what came before is over."""
        self._marks.append((name, self._elapsed()))

    def console_printed(self, data: bytes) -> None:
        """Find the steps of /init in what the guest prints."""
        lines, newline, rest = (self._line + data).rpartition(b"\n")
        self._line = rest
        for name, length, start in _STEP.findall(lines + newline):
            self._add(name.decode(errors="replace"), float(start) * 1000, float(length))

    def phases(self) -> tuple[Phase, ...]:
        """Return all phases in their order."""
        ends = [start for _, start in self._marks[1:]] + [self._elapsed()]
        found = []
        for (name, start), end in zip(self._marks, ends, strict=True):
            if name == PHASE_KERNEL:
                found += self._guest(start, end)
            else:
                found.append(Phase(name, _KINDS[name], start, end - start))
        return tuple(found)

    def _guest(self, start: float, end: float) -> list[Phase]:
        """Return what happened between the start of QEMU and that of the command."""
        if not self._steps:
            return [Phase(PHASE_KERNEL, _GUEST, start, end - start)]
        delay = min(self._delays)
        steps = [step.replace(start=step.start + delay) for step in self._steps]
        steps.sort(key=lambda step: step.start)
        first, last = steps[0].start, steps[-1].end
        told = any(name == PHASE_COMMAND for name, _ in self._marks)
        rest = Phase(HAND_OVER, _INIT, last, end - last) if told else None
        rest = rest or Phase(PHASE_COMMAND, _KINDS[PHASE_COMMAND], last, end - last)
        return [Phase(PHASE_KERNEL, _GUEST, start, first - start), *steps, rest]

    def _add(self, name: str, start: float, length: float) -> None:
        """Add a step that is over: just now, or some time ago."""
        self._delays.append(self._elapsed() - start - length)
        kind = _GUEST if name == _KERNEL else _INIT
        self._steps.append(Phase(name, kind, start, length))

    def _elapsed(self) -> float:
        return (self._now() - self._begin) * 1000


def process_age() -> float:
    """Return for how many seconds this process has run: proc_pid_stat(5), `starttime`."""
    try:
        with open("/proc/self/stat", encoding="utf-8", errors="replace") as file:
            ticks = int(file.read().rpartition(")")[2].split()[19])
    except (OSError, ValueError, IndexError):  # no /proc: then the start of Python is not counted
        return 0.0
    return time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
