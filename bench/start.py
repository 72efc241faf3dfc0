"""What the start of /init costs, in guest instructions, phase by phase.

    python3 -m bench.start [--kernel VMLINUZ] [--init FILE] [--json]

Boots /init in an image that holds nothing else; it stops where the root cannot be mounted. The
phases are told apart by system calls that it makes anyway.
"""

import argparse
import json
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path

from bench import icount

CALLS = ("getpid", "close", "brk", "getppid", "mount")
FIRST_LINE = "to the first line of init.py"


def phases(events: Iterable[icount.Event]) -> dict[str, int]:
    """Return each phase's instructions, in order; the last two are sums from "Run /init" on.

    Raises ValueError when the log does not show a start of /init.
    """
    marks = []
    wanted = ["Run /init", "sys_getpid", "sys_brk", "sys_brk", "sys_getppid", "sys_getpid"]
    for event in events:
        if wanted and event.text.startswith(wanted[0]):
            marks.append(event.instructions)
            wanted.pop(0)
    if wanted:
        raise ValueError(f"no {wanted[0]} in the kernel's log: /init did not start")
    names = ("execve", "unpack libraries", "dynamic linking", "start Python", "import init.py")
    found = dict(zip(names, (b - a for a, b in pairwise(marks)), strict=True))
    return found | {FIRST_LINE: marks[-2] - marks[0], "to main()": marks[-1] - marks[0]}


def report(found: dict[str, int]) -> str:
    """Return the phases as a table."""
    return "\n".join(f"{name:30}{count / 1e6:8.2f} M" for name, count in found.items())


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
    given = parser.parse_args()
    image = icount.initramfs(Path(given.init).read_bytes())
    kernel = given.kernel or default_kernel()
    found = phases(icount.boot(kernel, image, CALLS, "initrd.timeout=0.001"))
    print(json.dumps(found) if given.json else report(found))


if __name__ == "__main__":
    main()
