"""The command `python -m tests.mutants [--seconds N] [--seed N] [--jobs N] [PATH]...`.

See `tests.mutants`.
Prints each change that no test notices, as FILE:LINE and the change. PATH is a module or a folder;
initrd/guest and initrd/host by default. With a limit, the changes are a random sample.
"""

import argparse
import os
import random
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Lock

from tests.mutants.mutations import Mutation, find_mutations
from tests.mutants.sandbox import Baseline, Sandbox
from tests.mutants.selection import select_tests

_TOP = Path(__file__).parents[2]


class Module:
    """A module and its tests. All sandboxes are copies of the same sources."""

    def __init__(self, path: Path, sources: Path, baseline: Baseline) -> None:
        self.path = path
        self.source = (sources / path).read_bytes()
        files = select_tests(path, sources)
        failing = [name for name in baseline.failing if name.partition("::")[0] in files]
        self._words = [*files, *(f"--deselect={name}" for name in failing)]
        self._limit = 10 + 4 * sum(baseline.durations.get(file, 0.0) for file in files)  # seconds
        self.is_tested = bool(files)

    def try_mutation(self, mutation: Mutation, sandbox: Sandbox) -> str:
        """Return the result of the tests with a change, or `untested`."""
        if not self.is_tested:
            return "untested"
        file = sandbox.sources / self.path
        file.write_bytes(mutation.apply(self.source))
        try:
            return sandbox.run(self._words, self._limit)
        finally:
            file.write_bytes(self.source)


def main() -> int:
    """Try the changes; print the survivors and a table; return the exit status."""
    syntax = argparse.ArgumentParser("tests.mutants", description=__doc__)
    syntax.add_argument("--seconds", type=float, default=0.0, help="0: all changes")
    syntax.add_argument("--seed", type=int, default=time.time_ns(), help="of the random numbers")
    syntax.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="changes at a time")
    syntax.add_argument("paths", type=Path, nargs="*", metavar="PATH")
    options = syntax.parse_args()
    paths = options.paths or [Path("initrd/guest"), Path("initrd/host")]
    print(f"--seed {options.seed}", flush=True)
    with tempfile.TemporaryDirectory(prefix="mutants-") as place:
        sandboxes = [Sandbox(_TOP, Path(place).resolve() / str(n)) for n in range(options.jobs)]
        baseline = sandboxes[0].measure(options.jobs)
        print(f"left out: {len(baseline.failing)} tests that fail without a change", flush=True)
        sources = sandboxes[0].sources
        modules = [Module(path, sources, baseline) for path in _list_modules(paths)]
        counts = _try_all(modules, sandboxes, options.seconds, random.Random(options.seed))
    print("\n| changes | number |\n| --- | --- |")
    for result, number in sorted(counts.items()):
        print(f"| {result} | {number} |")
    return 0


def _list_modules(paths: list[Path]) -> list[Path]:
    """Return the modules, relative to the checkout."""
    absolute = [(_TOP / path).resolve() for path in paths]
    files = [
        file for path in absolute for file in ([path] if path.is_file() else path.rglob("*.py"))
    ]
    return sorted(file.relative_to(_TOP) for file in files if file.name != "__init__.py")


def _try_all(
    modules: list[Module], sandboxes: list[Sandbox], seconds: float, rng: random.Random
) -> dict[str, int]:
    """Try the changes until the time is over; return how many had which result."""
    work = [(module, mutation) for module in modules for mutation in find_mutations(module.source)]
    if seconds:
        rng.shuffle(work)
    counts = {"in all": len(work)}
    end = time.monotonic() + seconds if seconds else float("inf")
    queue, lock = iter(work), Lock()

    def take() -> Iterator[tuple[Module, Mutation]]:
        while time.monotonic() < end:
            with lock:
                item = next(queue, None)
            if item is None:
                return
            yield item

    def try_in(sandbox: Sandbox) -> None:
        for module, mutation in take():
            result = module.try_mutation(mutation, sandbox)
            word = "survived" if result == "passed" else result.partition(":")[0]
            with lock:
                counts[word] = counts.get(word, 0) + 1
                if word not in ("failed", "timeout"):
                    place = f"{module.path}:{mutation.line}"
                    print(f"{place}: {mutation.describe()}: {result}", flush=True)

    with ThreadPoolExecutor(len(sandboxes)) as pool:
        list(pool.map(try_in, sandboxes))
    return counts


if __name__ == "__main__":
    sys.exit(main())
