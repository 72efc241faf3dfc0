"""Run the targets for some time: `python -m tests.fuzz [--seconds N] [TARGET]...`.

Where atheris is installed, it makes the inputs of a target that is named alone: guided by coverage,
from the seeds and from what it has found in earlier runs. An input that makes a target fail is
written to a file, and the exit status is 1.
"""

import argparse
import contextlib
import importlib.util
import random
import sys
import time
import traceback
import zlib
from pathlib import Path

from tests.fuzz.mutate import MAX_SIZE, mutate
from tests.fuzz.target import Target

_LIMIT = 10.0  # seconds for one input; far above what the slowest takes


def main() -> int:
    """Run the targets that the command line names, or all; return the exit status."""
    syntax = argparse.ArgumentParser("tests.fuzz", description=__doc__)
    syntax.add_argument("--seconds", type=float, default=600.0, help="for all targets together")
    syntax.add_argument("--seed", type=int, default=time.time_ns(), help="of the random numbers")
    syntax.add_argument(
        "--output", type=Path, default=Path("build/fuzz"), help="for failing inputs"
    )
    syntax.add_argument("targets", nargs="*", metavar="TARGET", help="all of them by default")
    options = syntax.parse_args()
    is_guided = len(options.targets) == 1 and importlib.util.find_spec("atheris") is not None
    table = _load_targets(is_guided=is_guided)
    unknown = set(options.targets) - table.keys()
    if unknown:
        syntax.error(f"no target {', '.join(sorted(unknown))}; there are {', '.join(table)}")
    targets = [table[name] for name in options.targets or table]
    if is_guided:
        return _run_atheris(targets[0], options.seconds, options.output)
    print(f"--seed {options.seed}\n\n| target | what it does | inputs |\n| --- | --- | --- |")
    total, failures = 0, []
    for target in targets:
        seconds = options.seconds / len(targets)
        count, failure = fuzz(target, seconds, options.seed, options.output)
        total += count
        failures += [failure] if failure else []
        summary = (target.run.__doc__ or "").split("\n")[0].rstrip(".")
        print(f"| {target.name} | {summary} | {count:,} |", flush=True)
    print("\n".join([f"| all | {len(failures)} failed | {total:,} |", *failures]))
    return min(len(failures), 1)


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
            return count, f"{target.name} fails with {path}: {failure}"
    return count, ""


def _load_targets(*, is_guided: bool) -> dict[str, Target]:
    """Return all targets by name. For atheris, the code under test is instrumented on import."""
    with contextlib.ExitStack() as stack:
        if is_guided:
            import atheris  # type: ignore[import-not-found]  # noqa: PLC0415 - where it is installed

            stack.enter_context(atheris.instrument_imports(include=["initrd"]))
        from tests.fuzz.targets import TARGETS  # noqa: PLC0415 - not before the instrumentation
    return TARGETS


def _run_atheris(target: Target, seconds: float, output: Path) -> int:
    """Run a target with atheris, which ends this process."""
    import atheris  # noqa: PLC0415 - where it is installed

    corpus = output / "corpus" / target.name
    corpus.mkdir(parents=True, exist_ok=True)
    for seed in target.seeds:
        (corpus / f"{zlib.crc32(seed):08x}").write_bytes(seed)
    limits = f"-max_total_time={int(seconds)}", f"-timeout={int(_LIMIT)}", f"-max_len={MAX_SIZE}"
    prefix = f"-artifact_prefix={output / target.name}-"
    atheris.Setup([sys.argv[0], *limits, prefix, str(corpus)], target.run)
    atheris.Fuzz()
    return 0


if __name__ == "__main__":
    sys.exit(main())
