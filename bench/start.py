"""Count the guest instructions of the start of /init, phase by phase.

    python3 -m bench.start [--kernel VMLINUZ] [--init FILE] [--json]

Boots an image that holds only /init; the boot fails where the root is mounted. The phases begin at
system calls that /init makes in any case.
"""

import argparse
import json
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path

from bench import icount

CALLS = ("getpid", "close", "brk", "getppid", "mount")
PHASES = ("execve", "unpack libraries", "dynamic linking", "start Python", "import init.py")
# The first line of the log that begins with each of these, in order, separates the phases.
BOUNDARIES = ("Run /init", "sys_getpid", "sys_brk", "sys_brk", "sys_getppid", "sys_getpid")
FIRST_LINE, MAIN = "to the first line of init.py", "to main()"


def phases(events: Iterable[icount.Event]) -> dict[str, int]:
    """Return each phase's instructions, in order; the last two are sums from "Run /init" on.

    Raises ValueError when the log does not show a start of /init.
    """
    counts: list[int] = []
    pending = list(BOUNDARIES)
    for event in events:
        if pending and event.text.startswith(pending[0]):
            counts.append(event.instructions)
            pending.pop(0)
    if pending:
        raise ValueError(f"no {pending[0]} in the kernel's log: /init did not start")
    found = dict(zip(PHASES, (b - a for a, b in pairwise(counts)), strict=True))
    return found | {FIRST_LINE: counts[-2] - counts[0], MAIN: counts[-1] - counts[0]}


def table(counts: dict[str, int]) -> str:
    """Return the phases as a table, in millions of instructions."""
    return "\n".join(f"{name:30}{count / 1e6:8.2f} M" for name, count in counts.items())


def default_kernel() -> str:
    """Return Debian 12's kernel, from the cache of the boot tests."""
    from testbed import assets  # noqa: PLC0415  (may download)

    return assets.kernel("bookworm").image


def main() -> None:
    """Parse the command line, measure, print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--kernel", help="a vmlinuz (default: Debian 12's cloud kernel)")
    parser.add_argument("--init", default="dist/init", help="what to measure (default: dist/init)")
    parser.add_argument("--json", action="store_true", help="print numbers for programs")
    options = parser.parse_args()
    image = icount.initramfs(Path(options.init).read_bytes())
    kernel = options.kernel or default_kernel()
    counts = phases(icount.boot(kernel, image, CALLS, "initrd.timeout=0.001"))
    print(json.dumps(counts) if options.json else table(counts))


if __name__ == "__main__":
    main()
