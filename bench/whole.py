"""The whole machine, against what people write by hand; and many boots in a row.

    python3 -m bench.whole [--runs N]       # the ratio, for Debian 12's kernel and Debian 13's
    python3 -m bench.whole --soak N         # N boots; the first that fails or hangs ends it

The two are run in turn, so that both meet the same load; the ratio is that of each pair.
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
PLAIN = Path(__file__).parent / "plain.sh"
SUITES = {"bookworm": "Debian 12", "trixie": "Debian 13"}
DEADLINE = 120.0  # seconds


def once(command: Sequence[str]) -> float:
    """Run a command; return its wall-clock time in seconds."""
    begin = time.perf_counter()
    subprocess.run(
        command,
        check=True,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        timeout=DEADLINE,
    )
    return time.perf_counter() - begin


def ratio(first: Sequence[str], second: Sequence[str], runs: int) -> float:
    """Return the median of first/second over `runs` pairs, after one pair to warm up."""
    pairs = [(once(first), once(second)) for _ in range(runs + 1)][1:]
    return median(one / other for one, other in pairs)


def chrootvm(kernel: assets.Kernel, *words: str) -> list[str]:
    """Return a command that boots the busybox root with a kernel."""
    chosen = ("--kernel", kernel.image, "--modules", kernel.modules)
    return [sys.executable, CHROOTVM, *chosen, *words]


def against_plain(suite: str, runs: int) -> Figure:
    """Measure chrootvm ROOT -- true against the plain invocation with the same kernel and root."""
    kernel, root = assets.kernel(suite), assets.busybox_root()
    with tempfile.TemporaryDirectory() as top:
        image = f"{top}/image"
        maker = [sys.executable, "scripts/mkvirtinitrd", "dist/init", kernel.modules, image]
        subprocess.run(maker, check=True)
        plain = ["sh", str(PLAIN), root, kernel.image, image]
        found = ratio(chrootvm(kernel, root, "--", "true"), plain, runs)
    name = f"chrootvm ROOT -- true against plain QEMU, {SUITES[suite]}'s kernel"
    return Figure(name, found, "", 0.5)


def figures(runs: int) -> list[Figure]:
    """Measure with each kernel."""
    return [against_plain(suite, runs) for suite in SUITES]


def soak(count: int) -> None:
    """Boot many times in a row. Exits with what the first that fails has said; a hang raises."""
    command = chrootvm(assets.kernel("bookworm"), assets.busybox_root(), "--", "true")
    times = []
    for number in range(1, count + 1):
        try:
            times.append(once(command))
        except subprocess.CalledProcessError as error:
            sys.exit(f"boot {number}: status {error.returncode}: {error.stderr.decode()}")
        if number % 10 == 0 or number == count:
            print(f"{number} boots: median {median(times):.2f} s, longest {max(times):.2f} s")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--runs", type=int, default=5, help="pairs of boots")
    parser.add_argument("--soak", type=int, metavar="N", help="boot N times in a row instead")
    given = parser.parse_args()
    if given.soak:
        soak(given.soak)
        return
    for figure in figures(given.runs):
        print(figure.row(), flush=True)


if __name__ == "__main__":
    main()
