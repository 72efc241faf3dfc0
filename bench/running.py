"""Time commands in a machine that runs: what a command costs beyond the process in the guest.

    python3 -m bench.running [--rounds N]

The process itself is slow where the guest is emulated. So the same program is started by a shell
in the guest, in a loop, and that time is subtracted. Both are timed in turn.
"""

import argparse
import time
from collections.abc import Callable
from statistics import median
from subprocess import DEVNULL

from bench.figure import MEGA, Figure
from initrd.host import vm
from testbed import assets

PROGRAM = "/bin/true"
COMMANDS = 30  # of a round
BYTES = 20_000_000
LOOP = f"i=0; while [ $i -lt {COMMANDS} ]; do {PROGRAM}; i=$((i + 1)); done"


def seconds_of(action: Callable[[], object]) -> float:
    """Return the wall-clock time of `action` in seconds."""
    began = time.monotonic()
    action()
    return time.monotonic() - began


def measure_round(machine: vm.Machine) -> tuple[float, float]:
    """Return the seconds of a command from the host, and of one in the shell's loop."""

    def run_all() -> None:
        for _ in range(COMMANDS):
            machine.run(PROGRAM, check=True)

    in_guest = seconds_of(lambda: machine.run("sh", "-c", LOOP, check=True))
    return seconds_of(run_all) / COMMANDS, in_guest / COMMANDS


def figures(rounds: int) -> list[Figure]:
    """Time commands in a machine with Debian's shell."""
    with vm.boot(assets.debian_root()) as machine:
        machine.run("sh", "-c", LOOP, check=True)  # its code is translated then
        machine.run(PROGRAM, check=True)
        times = [measure_round(machine) for _ in range(rounds)]
        command = ("dd", "if=/dev/zero", "bs=64k", f"count={BYTES >> 16}")
        out = seconds_of(lambda: machine.run(*command, check=True))
        data = bytes(BYTES)
        into = seconds_of(lambda: machine.run("cat", input=data, stdout=DEVNULL, check=True))
    return [
        Figure("a command in a running machine", 1000 * median(host for host, _ in times), "ms"),
        Figure(
            "... beyond the same process in a shell's loop in the guest",
            1000 * median(host - guest for host, guest in times),
            "ms",
            30,
        ),
        Figure("standard output of a command in it", BYTES / MEGA / out, "MB/s"),
        Figure("standard input and output of a command in it", BYTES / MEGA / into, "MB/s"),
    ]


def main() -> None:
    """Parse the command line, measure, print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--rounds", type=int, default=5)
    for figure in figures(parser.parse_args().rounds):
        print(figure.row())


if __name__ == "__main__":
    main()
