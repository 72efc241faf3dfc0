"""Run the targets for some time: `python -m tests.fuzz [--seconds N] [TARGET]...`.

With atheris installed, it makes the inputs of a target that is named alone, guided by coverage. An
input that makes a target fail is written to a file, and the exit status is 1.
"""

import argparse
import importlib.util
import random
import sys
import time
import traceback
import zlib
from pathlib import Path

from tests.fuzz.mutate import mutate
from tests.fuzz.target import Target
from tests.fuzz.targets import TARGETS

_LIMIT = 10.0  # seconds for one input; far above what the slowest takes


def main() -> int:
    """Run the targets that the command line names, or all; return the exit status."""
    syntax = argparse.ArgumentParser("tests.fuzz", description=__doc__)
    syntax.add_argument("--seconds", type=float, default=600.0, help="for all targets together")
    syntax.add_argument("--seed", type=int, default=time.time_ns(), help="of the random numbers")
    syntax.add_argument(
        "--output", type=Path, default=Path("build/fuzz"), help="for failing inputs"
    )
    syntax.add_argument("targets", nargs="*", metavar="TARGET", help=", ".join(TARGETS))
    options = syntax.parse_args()
    unknown = set(options.targets) - TARGETS.keys()
    if unknown:
        syntax.error(f"no target {', '.join(sorted(unknown))}; there are {', '.join(TARGETS)}")
    targets = [TARGETS[name] for name in options.targets or TARGETS]
    if len(targets) == 1 and importlib.util.find_spec("atheris"):
        return _run_atheris(targets[0], options.seconds)
    print(f"--seed {options.seed}", flush=True)
    failures = 0
    for target in targets:
        seconds = options.seconds / len(targets)
        count, failure = fuzz(target, seconds, options.seed, options.output)
        print(f"{target.name}: {count} inputs{failure}", flush=True)
        failures += bool(failure)
    return min(failures, 1)


def fuzz(target: Target, seconds: float, seed: int, output: Path) -> tuple[int, str]:
    """Run a target; return the number of inputs, and what failed."""
    rng = random.Random(seed ^ zlib.crc32(target.name.encode()))
    end, count = time.monotonic() + seconds, 0
    while (began := time.monotonic()) < end:
        data = mutate(rng, target.seeds)
        count += 1
        try:
            target.run(data)
            failure = "" if time.monotonic() - began < _LIMIT else "it takes too long"
        except Exception:
            failure = traceback.format_exc()
        if failure:
            output.mkdir(parents=True, exist_ok=True)
            path = output / f"{target.name}-{zlib.crc32(data):08x}"
            path.write_bytes(data)
            return count, f"; FAILED with {path}:\n{failure}"
    return count, ""


def _run_atheris(target: Target, seconds: float) -> int:
    """Run a target with atheris, which ends this process."""
    import atheris  # type: ignore[import-not-found]  # noqa: PLC0415 - where it is installed

    atheris.instrument_all()
    atheris.Setup([sys.argv[0], f"-max_total_time={int(seconds)}"], target.run)
    atheris.Fuzz()
    return 0


if __name__ == "__main__":
    sys.exit(main())
