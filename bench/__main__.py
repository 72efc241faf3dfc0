"""Run the benchmarks: print a table, write build/bench/bench.json and build/bench/boot.svg.

    python3 -m bench [--short] [--output DIRECTORY]

Instruction counts are exact and comparable between commits; times depend on the machine and on its
load. A figure over its budget is marked; the exit status does not depend on it.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import median

from bench import (
    alternatives,
    build_time,
    cold_start,
    guest_boot,
    icount,
    running,
    start,
    virtiofs,
    wall_clock,
)
from bench.figure import MEGA, Figure
from bench.wall_clock import CHROOTVM, compile_packages, run_timed
from initrd.host.image import lsinitramfs
from initrd.host.machine.run import PHASE_KERNEL
from testbed import assets

INIT = Path("dist/init")
BLOCKS = 4096  # of 64 KiB each, written to a command's standard output


def median_seconds(command: Sequence[str], runs: int) -> float:
    """Return the median wall-clock time of a command in seconds, after one run to warm up."""
    return median([run_timed(command) for _ in range(runs + 1)][1:])


def start_of_init(_runs: int) -> list[Figure]:
    """Count the guest's instructions from "Run /init" to the start of Python code."""
    image = icount.initramfs(INIT.read_bytes())
    kernel = assets.kernel("bookworm").image
    counts = start.phases(icount.boot(kernel, image, start.CALLS, "initrd.timeout=0.001"))
    to_first_line = counts[start.FIRST_LINE] / MEGA
    return [
        Figure('"Run /init" to the first line of init.py', to_first_line, "M", 30),
        Figure('"Run /init" to main()', counts[start.MAIN] / MEGA, "M"),
    ]


def start_of_kernel(runs: int) -> list[Figure]:
    """Count the guest's instructions before the kernel's entry point, by image and by PVH."""
    return cold_start.figures(runs * cold_start.STARTS)


def boot_in_guest(runs: int) -> list[Figure]:
    """Count the guest's instructions of a boot by /init and by the minimal program in C."""
    return guest_boot.figures(short=runs == 1)


def boot_by_alternatives(runs: int) -> list[Figure]:
    """Count the guest's instructions of the same boot by other initramfs images."""
    return alternatives.figures(short=runs == 1)


def sizes(_runs: int) -> list[Figure]:
    """Measure the size of the binary."""
    return [Figure("dist/init", INIT.stat().st_size / MEGA, "MB", 12)]


def image_maker(runs: int) -> list[Figure]:
    """Time mkvirtinitrd with the modules of Debian 12's kernel, and measure its image."""
    modules = assets.kernel("bookworm").modules
    with tempfile.TemporaryDirectory() as directory:
        path = f"{directory}/image"
        command = [sys.executable, "scripts/mkvirtinitrd", str(INIT), modules, path]
        taken = median_seconds(command, runs * 2)
        content = Path(path).read_bytes()
    overhead = len(content) - sum(len(entry.data) for entry in lsinitramfs.read_entries(content))
    return [
        Figure("mkvirtinitrd on Debian 12's modules", taken, "s", 0.2),
        Figure("its image", len(content) / MEGA, "MB"),
        Figure("its image without the content of files", overhead, "bytes", 4096),
    ]


def commands(runs: int) -> list[Figure]:
    """Time chrootvm with a command without output, and with one that writes much output."""
    chrootvm = [sys.executable, "scripts/chrootvm", assets.busybox_root(), "--"]
    without_output = median_seconds([*chrootvm, "true"], runs)
    # Not `head -c`: in busybox that is slower than the streams which are measured.
    writer = ("dd", "if=/dev/zero", "bs=64k", f"count={BLOCKS}")
    with_output = median_seconds([*chrootvm, *writer], runs)
    rate = (BLOCKS << 16) / MEGA / max(with_output - without_output, 0.001)
    return [
        Figure("chrootvm ROOT -- true", without_output, "s"),
        Figure("standard output of a command", rate, "MB/s", 40, more_is_better=True),
    ]


def host(runs: int) -> list[Figure]:
    """Time chrootvm up to the start of QEMU, from its reports; one run to warm up the caches."""
    starts = []
    with tempfile.TemporaryDirectory() as directory:
        report = f"{directory}/report"
        options = ("--report", report)
        for _ in range(runs + 1):
            run_timed([sys.executable, CHROOTVM, *options, assets.busybox_root(), "--", "true"])
            phases = json.loads(Path(report).read_text())["phases"]
            starts += [
                phase["start_ms"] / 1000 for phase in phases if phase["name"] == PHASE_KERNEL
            ]
    return [Figure("execve of chrootvm to that of QEMU", median(starts[1:]), "s", 0.15)]


def commands_in_a_machine(runs: int) -> list[Figure]:
    """Time commands in a machine that runs."""
    return running.figures(runs)


def cold_and_warm_starts(runs: int) -> list[Figure]:
    """Time cold and warm starts. A round takes more than half a minute."""
    return wall_clock.figures(runs - 1)


BENCHMARKS: tuple[Callable[[int], list[Figure]], ...] = (
    start_of_kernel,
    start_of_init,
    sizes,
    image_maker,
    boot_in_guest,
    boot_by_alternatives,
)
# Wall-clock times, which take many boots.
LONG_BENCHMARKS = (
    host,
    commands,
    commands_in_a_machine,
    cold_and_warm_starts,
    build_time.figures,
    virtiofs.figures,
)


def main() -> None:
    """Measure, print the figures, and write the files."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--short", action="store_true", help="what can be measured within a minute")
    parser.add_argument("--output", type=Path, default=Path("build/bench"), metavar="DIRECTORY")
    options = parser.parse_args()
    compile_packages()
    figures = []
    for benchmark in BENCHMARKS if options.short else (*BENCHMARKS, *LONG_BENCHMARKS):
        for figure in benchmark(1 if options.short else 3):
            print(figure.row(), flush=True)
            figures.append(asdict(figure) | {"met": figure.met})
    options.output.mkdir(parents=True, exist_ok=True)
    svg = ("--report", str(options.output / "boot.svg"))
    run_timed([sys.executable, CHROOTVM, *svg, assets.busybox_root(), "--", "true"])
    (options.output / "bench.json").write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
