"""Measure what users wait and pay for: a table, build/bench/bench.json and build/bench/boot.svg.

    python3 -m bench [--short] [--output DIRECTORY]

Instruction counts are exact and can be compared between commits; times are those of this machine in
this hour. A figure over its budget is marked and fails nothing.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import median

from bench import building, files, icount, inside, instead, start, whole
from bench.figure import MEGA, Figure
from bench.whole import once
from initrd.host.image import lsinitramfs
from initrd.host.machine.run import PHASE_KERNEL
from testbed import assets

INIT = Path("dist/init")
BLOCKS = 4096  # of 64 KiB each, through a command's standard output


def seconds(command: Sequence[str], runs: int) -> float:
    """Return the median wall-clock time of a command in seconds, after one run to warm up."""
    return median([once(command) for _ in range(runs + 1)][1:])


def start_of_init(_runs: int) -> list[Figure]:
    """Count the guest's instructions from "Run /init" on."""
    image = icount.initramfs(INIT.read_bytes())
    kernel = assets.kernel("bookworm").image
    found = start.phases(icount.boot(kernel, image, start.CALLS, "initrd.timeout=0.001"))
    return [
        Figure('"Run /init" to the first line of init.py', found[start.FIRST_LINE] / MEGA, "M", 30),
        Figure('"Run /init" to main()', found["to main()"] / MEGA, "M"),
    ]


def inside_guest(runs: int) -> list[Figure]:
    """Count what a whole boot takes in the guest, against the floor in C."""
    return inside.figures(short=runs == 1)


def instead_of_init(runs: int) -> list[Figure]:
    """Count what other initramfs take for the same boot."""
    return instead.figures(short=runs == 1)


def sizes(_runs: int) -> list[Figure]:
    """Measure what is shipped."""
    return [Figure("dist/init", INIT.stat().st_size / MEGA, "MB", 12)]


def image_maker(runs: int) -> list[Figure]:
    """Time mkvirtinitrd on Debian 12's modules."""
    modules = assets.kernel("bookworm").modules
    with tempfile.TemporaryDirectory() as top:
        command = [sys.executable, "scripts/mkvirtinitrd", str(INIT), modules, f"{top}/image"]
        taken = seconds(command, runs * 2)
        content = Path(f"{top}/image").read_bytes()
        size = len(content)
        beyond = size - sum(len(entry.data) for entry in lsinitramfs.read_entries(content))
    return [
        Figure("mkvirtinitrd on Debian 12's modules", taken, "s", 0.2),
        Figure("its image", size / MEGA, "MB"),
        Figure("its image beyond /init and the modules", beyond, "bytes", 4096),
    ]


def commands(runs: int) -> list[Figure]:
    """Time chrootvm with a command: nothing at all, and much output."""
    chrootvm = [sys.executable, "scripts/chrootvm", assets.busybox_root(), "--"]
    idle = seconds([*chrootvm, "true"], runs)
    # Not `head -c`: busybox takes longer to make bytes with it than the streams to move them.
    busy = seconds([*chrootvm, "dd", "if=/dev/zero", "bs=64k", f"count={BLOCKS}"], runs)
    rate = (BLOCKS << 16) / MEGA / max(busy - idle, 0.001)
    return [
        Figure("chrootvm ROOT -- true", idle, "s"),
        Figure("standard output of a command", rate, "MB/s", 40, more_is_better=True),
    ]


def host(runs: int) -> list[Figure]:
    """Time what chrootvm does before QEMU, by its own reports; one run to warm up the caches."""
    starts, chrootvm = [], [sys.executable, whole.CHROOTVM]
    with tempfile.TemporaryDirectory() as top:
        report = f"{top}/report"
        for _ in range(runs + 1):
            once([*chrootvm, "--report", report, assets.busybox_root(), "--", "true"])
            phases = json.loads(Path(report).read_text())["phases"]
            starts += [
                phase["start_ms"] / 1000 for phase in phases if phase["name"] == PHASE_KERNEL
            ]
    return [Figure("execve of chrootvm to that of QEMU", median(starts[1:]), "s", 0.15)]


MEASURES: tuple[Callable[[int], list[Figure]], ...] = (
    start_of_init,
    sizes,
    image_maker,
    inside_guest,
    instead_of_init,
)
# Wall-clock times, which take many boots.
LONG = (host, commands, whole.figures, building.figures, files.figures)


def main() -> None:
    """Measure, print, and keep the figures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--short", action="store_true", help="what can be measured within a minute")
    parser.add_argument("--output", type=Path, default=Path("build/bench"), metavar="DIRECTORY")
    given = parser.parse_args()
    figures = []
    for measure in MEASURES if given.short else (*MEASURES, *LONG):
        for figure in measure(1 if given.short else 3):
            print(figure.row(), flush=True)
            figures.append(asdict(figure) | {"met": figure.met})
    given.output.mkdir(parents=True, exist_ok=True)
    picture = ("--report", str(given.output / "boot.svg"))
    once([sys.executable, whole.CHROOTVM, *picture, assets.busybox_root(), "--", "true"])
    (given.output / "bench.json").write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
