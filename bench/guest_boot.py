"""Count the guest instructions of a boot by /init, and by the minimal program `minimal_init.c`.

    python3 -m bench.guest_boot [--short]

`minimal_init.c` makes the system calls of /init and does nothing else, so it is a lower limit. The
cost of a further share or module is measured for both programs.
"""

import argparse
import re
import tempfile
from pathlib import Path

from bench import boots
from bench.boots import CountedBoot, Marks
from bench.figure import MEGA, Figure
from testbed import assets

SHARES = (1, 8, 32)
MODULES = (1, 16, 64)
# Modules that depend on no other and find no device, so that only their loading is measured.
INDEPENDENT = re.compile(r"^kernel/(?:fs/nls|net/sched)/([^:/]+)\.ko[^:/]*:$", re.MULTILINE)


class GuestBoots:
    """Boots of Debian 12's kernel with one of several programs as /init."""

    def __init__(self, root: str, programs: dict[str, str]) -> None:
        self._root, self._programs = root, programs
        self._kernel = assets.kernel("bookworm")
        modules_dep = Path(self._kernel.modules, "modules.dep").read_text(encoding="utf-8")
        self._modules = INDEPENDENT.findall(modules_dep)

    def measure(self, program: str, shares: int = 1, modules: int = 0) -> Marks:
        """Boot with one of the programs, and with further shares and modules."""
        tags = [f"share{number}" for number in range(shares)]
        mounts = [f"mount={tag}" for tag in tags]
        return boots.measure(
            CountedBoot(
                self._kernel.image,
                boots.image(self._programs[program], self._kernel, *self._modules[:modules]),
                " ".join(["rootfs=root", *mounts, "init=/target"]),
                self._root,
                ("root", *tags),
            )
        )

    def growth(self, parameter: str, counts: tuple[int, ...]) -> list[Figure]:
        """Measure the cost of a further share or module; `parameter` is one of `measure`."""
        costs = {
            program: [self.measure(program, **{parameter: count}).to_execve for count in counts]
            for program in self._programs
        }
        slopes = {
            program: [
                (after - before) / (last - first)
                for before, after, first, last in zip(
                    cost, cost[1:], counts, counts[1:], strict=False
                )
            ]
            for program, cost in costs.items()
        }
        average = {
            program: (cost[-1] - cost[0]) / (counts[-1] - counts[0])
            for program, cost in costs.items()
        }
        singular = parameter.removesuffix("s")
        ratio = average["init"] / average["minimal"]
        return [
            Figure(
                f"each further {singular}, {counts[0]} to {counts[-1]}",
                average["init"] / MEGA,
                "M",
            ),
            Figure(f"the same against minimal_init.c ({parameter})", ratio, "", 1.1),
            *(
                Figure(f"the last {parameter} against the first, {program}", slope[-1] / slope[0])
                for program, slope in slopes.items()
            ),
        ]


def figures(*, short: bool = False) -> list[Figure]:
    """Measure; when `short`, with a single boot of each program."""
    with boots.small_root() as root, tempfile.TemporaryDirectory() as directory:
        programs = {"init": boots.INIT, "minimal": boots.compile_minimal_init(directory)}
        guest_boots = GuestBoots(root, programs)
        init, minimal = (guest_boots.measure(program) for program in programs)
        found = [
            Figure('"Run /init" to the target\'s execve', init.to_execve / MEGA, "M"),
            Figure("the same against minimal_init.c", init.to_execve / minimal.to_execve, "", 1.25),
            Figure(
                '"Run /init" to the target, against minimal_init.c',
                (init.target - init.init) / (minimal.target - minimal.init),
            ),
        ]
        if short:
            return found
        return found + guest_boots.growth("shares", SHARES) + guest_boots.growth("modules", MODULES)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--short", action="store_true", help="one boot of each")
    for figure in figures(short=parser.parse_args().short):
        print(figure.row(), flush=True)


if __name__ == "__main__":
    main()
