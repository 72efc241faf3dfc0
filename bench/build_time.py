"""Time `make build` in a fresh copy of the sources, with the wheels in pip's cache.

    python3 -m bench.build_time

The directories build/ and dist/ of this checkout are neither read nor changed.
"""

import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence

from bench.figure import Figure

NOT_SOURCES = ("build", "dist", ".git", ".*_cache", "__pycache__", "*.so")
CONSTRAINTS = "constraints.txt"


def figures(_runs: int = 1) -> list[Figure]:
    """Build once. Raises RuntimeError when a command fails."""
    with tempfile.TemporaryDirectory(prefix="bench-") as directory:
        sources = f"{directory}/sources"
        shutil.copytree(".", sources, ignore=shutil.ignore_patterns(*NOT_SOURCES))
        fill_pip_cache(f"{directory}/wheels")
        wall, processor = build(sources)
        return [
            Figure("make build, with a warm pip cache", wall, "s", 60),
            Figure("the same in processor time", processor, "s"),
        ]


def fill_pip_cache(wheels: str) -> None:
    """Download the wheels of the build to `wheels`, which also puts them into pip's cache."""
    command = [sys.executable, "-m", "pip", "download", "-q", "--disable-pip-version-check"]
    run_quietly([*command, "--require-hashes", "-r", CONSTRAINTS, "-d", wheels])


def build(sources: str) -> tuple[float, float]:
    """Return the wall-clock time and the processor time of `make build` in seconds."""
    wall_before, processor_before = time.perf_counter(), children_time()
    run_quietly(["make", "-C", sources, "build"])
    return time.perf_counter() - wall_before, children_time() - processor_before


def children_time() -> float:
    """Return the processor time of terminated child processes, in seconds (getrusage(2))."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def run_quietly(command: Sequence[str]) -> None:
    """Run a command without make's variables; raise RuntimeError with its output if it fails."""
    environ = {name: value for name, value in os.environ.items() if "MAKE" not in name}
    done = subprocess.run(command, check=False, capture_output=True, text=True, env=environ)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stdout}{done.stderr}")


def main() -> None:
    """Measure and print."""
    for figure in figures():
        print(figure.row())


if __name__ == "__main__":
    main()
