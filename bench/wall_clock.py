"""Compare the wall-clock time of chrootvm with that of a plain QEMU; boot many times in a row.

    python3 -m bench.wall_clock [--runs N]  # the ratio, for Debian 12's kernel and Debian 13's
    python3 -m bench.wall_clock --soak N    # N boots; stops at the first that fails or hangs

The two commands run alternately, so that both run under the same load; the result is the median of
the ratios of the pairs.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median

from bench.figure import Figure
from testbed import assets

CHROOTVM = "scripts/chrootvm"
PLAIN_QEMU = Path(__file__).parent / "plain.sh"
SUITES = {"bookworm": "Debian 12", "trixie": "Debian 13"}
TIMEOUT = 120.0  # seconds


def run_timed(command: Sequence[str]) -> float:
    """Run a command; return its wall-clock time in seconds.

    Raises subprocess.CalledProcessError, and subprocess.TimeoutExpired after TIMEOUT.
    """
    begin = time.perf_counter()
    subprocess.run(
        command,
        check=True,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        timeout=TIMEOUT,
    )
    return time.perf_counter() - begin


def median_ratio(first: Sequence[str], second: Sequence[str], runs: int) -> float:
    """Return the median of first/second over `runs` pairs, after one pair to warm up."""
    pairs = [(run_timed(first), run_timed(second)) for _ in range(runs + 1)][1:]
    return median(one / other for one, other in pairs)


def chrootvm(kernel: assets.Kernel, *arguments: str) -> list[str]:
    """Return a chrootvm command with a given kernel."""
    options = ("--kernel", kernel.image, "--modules", kernel.modules)
    return [sys.executable, CHROOTVM, *options, *arguments]


def against_plain_qemu(suite: str, runs: int) -> Figure:
    """Measure `chrootvm ROOT -- true` against plain.sh with the same kernel and root."""
    kernel, root = assets.kernel(suite), assets.busybox_root()
    with tempfile.TemporaryDirectory() as directory:
        image = f"{directory}/image"
        maker = [sys.executable, "scripts/mkvirtinitrd", "dist/init", kernel.modules, image]
        subprocess.run(maker, check=True)
        plain = ["sh", str(PLAIN_QEMU), root, kernel.image, image]
        ratio = median_ratio(chrootvm(kernel, root, "--", "true"), plain, runs)
    name = f"chrootvm ROOT -- true against plain QEMU, {SUITES[suite]}'s kernel"
    return Figure(name, ratio, "", 0.5)


def figures(runs: int) -> list[Figure]:
    """Measure with each kernel."""
    return [against_plain_qemu(suite, runs) for suite in SUITES]


def soak(count: int) -> None:
    """Boot `count` times in a row. Exits with the error output of the first boot that fails.

    Raises subprocess.TimeoutExpired when a boot takes longer than TIMEOUT.
    """
    command = chrootvm(assets.kernel("bookworm"), assets.busybox_root(), "--", "true")
    times = []
    for number in range(1, count + 1):
        try:
            times.append(run_timed(command))
        except subprocess.CalledProcessError as error:
            sys.exit(f"boot {number}: status {error.returncode}: {error.stderr.decode()}")
        if number % 10 == 0 or number == count:
            print(f"{number} boots: median {median(times):.2f} s, longest {max(times):.2f} s")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--runs", type=int, default=5, help="pairs of boots")
    parser.add_argument("--soak", type=int, metavar="N", help="boot N times in a row instead")
    options = parser.parse_args()
    if options.soak:
        soak(options.soak)
        return
    for figure in figures(options.runs):
        print(figure.row(), flush=True)


if __name__ == "__main__":
    main()
