"""The command `python -m tests.mutants [--seconds N] [--seed N] [PATH]...`: see `tests.mutants`.

Prints each change that no test notices, as FILE:LINE and the change. PATH is a module or a folder;
initrd/guest and initrd/host by default. With a limit, the changes are a random sample.
"""

import argparse
import random
import sys
import tempfile
import time
from pathlib import Path

from tests.mutants.mutations import Mutation, find_mutations
from tests.mutants.sandbox import Sandbox
from tests.mutants.selection import select_tests

_TOP = Path(__file__).parents[2]
_MAX_BASELINE = 300.0  # seconds for the tests of a module without a change


class Module:
    """A module, its tests, and how long they take."""

    def __init__(self, path: Path, sandbox: Sandbox) -> None:
        self.path, self._sandbox = path, sandbox
        self.source = (sandbox.sources / path).read_bytes()
        self.tests = select_tests(path, sandbox.sources)
        self._limit = 0.0  # seconds; 0: not measured
        self.is_tested = bool(self.tests)

    def try_mutation(self, mutation: Mutation) -> str:
        """Return the result of the tests with a change, or why there is none."""
        if not self._limit:
            self._measure()
        if not self.is_tested:
            return "untested"
        file = self._sandbox.sources / self.path
        file.write_bytes(mutation.apply(self.source))
        try:
            return self._sandbox.run(self.tests, self._limit)
        finally:
            file.write_bytes(self.source)

    def _measure(self) -> None:
        """Leave out test files that fail without a change: some do in the sandbox."""
        began = time.monotonic()
        if self.tests and self._sandbox.run(self.tests, _MAX_BASELINE) != "passed":
            passing = [
                name for name in self.tests if self._sandbox.run([name], _MAX_BASELINE) == "passed"
            ]
            print(f"{self.path}: without {', '.join(sorted({*self.tests} - {*passing}))}")
            began, self.tests = time.monotonic(), passing
            if passing:
                self._sandbox.run(passing, _MAX_BASELINE)
        self.is_tested = bool(self.tests)
        self._limit = 10 + 4 * (time.monotonic() - began)


def main() -> int:
    """Try the changes; print the survivors and a table; return the exit status."""
    syntax = argparse.ArgumentParser("tests.mutants", description=__doc__)
    syntax.add_argument("--seconds", type=float, default=0.0, help="0: all changes")
    syntax.add_argument("--seed", type=int, default=time.time_ns(), help="of the random numbers")
    syntax.add_argument("paths", type=Path, nargs="*", metavar="PATH")
    options = syntax.parse_args()
    paths = options.paths or [Path("initrd/guest"), Path("initrd/host")]
    print(f"--seed {options.seed}", flush=True)
    with tempfile.TemporaryDirectory(prefix="mutants-") as place:
        sandbox = Sandbox(_TOP, Path(place).resolve())
        modules = [Module(path, sandbox) for path in _list_modules(paths)]
        counts = _try_all(modules, options.seconds, random.Random(options.seed))
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


def _try_all(modules: list[Module], seconds: float, rng: random.Random) -> dict[str, int]:
    """Try the changes until the time is over; return how many had which result."""
    work = [(module, mutation) for module in modules for mutation in find_mutations(module.source)]
    if seconds:
        rng.shuffle(work)
    end, counts = time.monotonic() + seconds, {"in all": len(work)}
    for module, mutation in work:
        if seconds and time.monotonic() >= end:
            break
        result = module.try_mutation(mutation)
        if result in ("passed", "untested") or result.startswith("error"):
            shown = "survives" if result == "passed" else result
            print(f"{module.path}:{mutation.line}: {mutation.describe()}: {shown}", flush=True)
        word = "survived" if result == "passed" else result.partition(":")[0]
        counts[word] = counts.get(word, 0) + 1
    return counts


if __name__ == "__main__":
    sys.exit(main())
