"""Record when each phase of a boot began and ended, on the host and in the guest.

The host's phases are marked by calls. The guest's are read from its console: with the option
`debug`, /init prints each step with its duration and with the guest's time. The guest's clock is
related to the host's by the line that arrived with the least delay. The time between two known
phases is left empty.

A machine that starts from a template prints only the steps after its start, by the template's
clock. The console of a machine that becomes a template is not observed.

Root in the guest can print such lines, too. The number of steps and the length of a line are
limited.
"""

import os
import re
import time

from initrd.host.machine.run import (
    PHASE_COMMAND,
    PHASE_END,
    PHASE_KERNEL,
    PHASE_LOAD,
    PHASE_PREPARE,
    PHASE_RESUME,
    PHASE_START,
    PHASE_TEMPLATE,
    BootObserver,
)
from initrd.host.system.lines import Lines
from initrd.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

_PHASE_HAND_OVER = "start the command"
_STEP = re.compile(rb"initrd: (.*) \[(\d{1,9}\.\d) ms, at (\d{1,9}\.\d{1,9}) s\]\r?")
_MAX_LINE = 4096  # bytes of a line of the console; those of /init have some hundred
_MAX_STEPS = 1000  # of one boot; there are some dozen
_KERNEL_STEP = "the kernel"  # in the output of /init: the time before /init started
_HOST, _KERNEL, _INIT, _COMMAND = "host", "kernel", "init", "command"
_KINDS = {
    PHASE_PREPARE: _HOST,
    PHASE_START: _HOST,
    PHASE_TEMPLATE: _KERNEL,
    PHASE_LOAD: _KERNEL,
    PHASE_RESUME: _INIT,
    PHASE_KERNEL: _KERNEL,
    PHASE_COMMAND: _COMMAND,
    PHASE_END: _HOST,
}


class Phase(Record):
    """A phase of a boot. Times in milliseconds since the start of this process."""

    name: str
    kind: str  # `host`, `kernel`, `init` or `command`
    start: float
    length: float

    @property
    def end(self) -> float:
        """When the phase ended."""
        return self.start + self.length


class Timeline(BootObserver):
    """Observes a boot and records its phases."""

    def __init__(self, now: "Callable[[], float]" = time.monotonic, age: float = 0.0) -> None:
        """`age`: for how many seconds the process has run already."""
        self._now = now
        self._begin = now() - age
        self._marks = [(PHASE_PREPARE, 0.0)]
        self._steps: list[Phase] = []  # by the guest's clock
        self._delays: list[float] = []  # milliseconds from the guest's clock to the host's
        self._lines = Lines(_MAX_LINE)

    def phase_started(self, name: str) -> None:
        """Record that the phase `name` begins, and that the phase before it ends."""
        self._marks.append((name, self._elapsed()))

    def console_printed(self, data: bytes) -> None:
        """Find the steps of /init in a piece of the guest's console output."""
        self._lines.add(data)
        while (line := self._lines.take()) is not None:
            step = _STEP.fullmatch(line) if len(line) <= _MAX_LINE else None
            if step and len(self._steps) < _MAX_STEPS:
                name, length, start = step.groups()
                self._add_step(name.decode(errors="replace"), float(start) * 1000, float(length))
        if self._lines.is_too_long:
            self._lines.take_rest()

    def phases(self) -> tuple[Phase, ...]:
        """Return all phases in their order."""
        ends = [start for _, start in self._marks[1:]] + [self._elapsed()]
        phases = []
        for (name, start), end in zip(self._marks, ends, strict=True):
            if name in (PHASE_KERNEL, PHASE_RESUME):
                phases += self._guest_phases(name, start, end)
            else:
                phases.append(Phase(name, _KINDS[name], start, end - start))
        return tuple(phases)

    def _guest_phases(self, begin: str, start: float, end: float) -> list[Phase]:
        """Return the phases between `begin`, in which the guest starts, and the command."""
        if not self._steps:
            return [Phase(begin, _KINDS[begin], start, end - start)]
        delay = min(self._delays)
        steps = [step.replace(start=step.start + delay) for step in self._steps]
        steps.sort(key=lambda step: step.start)
        first, last = steps[0].start, steps[-1].end
        command_marked = any(name == PHASE_COMMAND for name, _ in self._marks)
        name, kind = (_PHASE_HAND_OVER, _INIT) if command_marked else (PHASE_COMMAND, _COMMAND)
        rest = Phase(name, kind, last, end - last)
        return [Phase(begin, _KINDS[begin], start, first - start), *steps, rest]

    def _add_step(self, name: str, start: float, length: float) -> None:
        """Add a step of /init. Its line arrived now, at the end of the step or later."""
        self._delays.append(self._elapsed() - start - length)
        kind = _KERNEL if name == _KERNEL_STEP else _INIT
        self._steps.append(Phase(name, kind, start, length))

    def _elapsed(self) -> float:
        """Return the milliseconds since the start of this process."""
        return (self._now() - self._begin) * 1000


def process_age() -> float:
    """Return for how many seconds this process has run: proc_pid_stat(5), `starttime`."""
    try:
        with open("/proc/self/stat", encoding="utf-8", errors="replace") as file:
            ticks = int(file.read().rpartition(")")[2].split()[19])
    except (OSError, ValueError, IndexError):  # no /proc: the start of Python is not counted
        return 0.0
    return time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
