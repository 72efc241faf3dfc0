"""The command `python -m tests.soak [N] [--seed N]`: see `tests.soak`."""

import argparse
import sys
import time

import tests.soak
from tests.soak.checks import format_table, make_place, soak


def main() -> int:
    """Run the checks; print the failures and the table; return the exit status."""
    syntax = argparse.ArgumentParser("tests.soak", description=tests.soak.__doc__)
    syntax.add_argument("number", type=int, nargs="?", default=200, help="of machines")
    syntax.add_argument("--seed", type=int, default=time.time_ns(), help="of the random numbers")
    options = syntax.parse_args()
    print(f"--seed {options.seed}", flush=True)
    with make_place(options.seed) as place:
        seconds, failures = soak(place, options.number)
    print("\n".join([*failures, format_table(seconds, failures)]))
    return min(len(failures), 1)


if __name__ == "__main__":
    sys.exit(main())
