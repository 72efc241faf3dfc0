"""How long `make build` takes in a fresh copy of the sources, with all that pip needs in its cache.

    python3 -m bench.building

This checkout's build/ and dist/ are neither used nor touched.
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
PINS = "constraints.txt"


def figures(_runs: int = 1) -> list[Figure]:
    """Build once. Raises RuntimeError."""
    with tempfile.TemporaryDirectory(prefix="bench-") as top:
        sources = f"{top}/sources"
        shutil.copytree(".", sources, ignore=shutil.ignore_patterns(*NOT_SOURCES))
        fill_cache(f"{top}/wheels")
        wall, processor = build(sources)
        return [
            Figure("make build, with a warm pip cache", wall, "s", 60),
            Figure("the same in processor time", processor, "s"),
        ]


def fill_cache(wheels: str) -> None:
    """Have pip download what the build needs, which leaves it in pip's cache."""
    command = [sys.executable, "-m", "pip", "download", "-q", "--disable-pip-version-check"]
    quietly([*command, "--require-hashes", "-r", PINS, "-d", wheels])


def build(sources: str) -> tuple[float, float]:
    """Return the wall-clock time and the processor time of `make build` in seconds."""
    begin, before = time.perf_counter(), processor_time()
    quietly(["make", "-C", sources, "build"])
    return time.perf_counter() - begin, processor_time() - before


def processor_time() -> float:
    """Return what the programs that were started have used, in seconds."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def quietly(command: Sequence[str]) -> None:
    """Run a command as from a fresh shell; raise RuntimeError with its output when it fails."""
    ours = {name: value for name, value in os.environ.items() if "MAKE" not in name}
    done = subprocess.run(command, check=False, capture_output=True, text=True, env=ours)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stdout}{done.stderr}")


def main() -> None:
    """Measure and print."""
    for figure in figures():
        print(figure.row())


if __name__ == "__main__":
    main()
