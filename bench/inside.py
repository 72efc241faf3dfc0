"""What a boot costs inside the guest, in instructions, against the least that it could cost.

    python3 -m bench.inside [--short]

`floor.c` makes the system calls of /init and nothing else; what shares and modules cost has to grow
like it does there.
"""

import argparse
import re
import tempfile
from pathlib import Path

from bench import boots
from bench.boots import Counted, Marks
from bench.figure import MEGA, Figure
from testbed import assets

SHARES = (1, 8, 32)
MODULES = (1, 16, 64)
# Modules that need no other and find no device: what is measured is their loading.
LEAVES = re.compile(r"^kernel/(?:fs/nls|net/sched)/([^:/]+)\.ko[^:/]*:$", re.MULTILINE)


class Inside:
    """The boots of one kernel, with /init and with the floor."""

    def __init__(self, root: str, programs: dict[str, str]) -> None:
        self._root, self._programs = root, programs
        self._kernel = assets.kernel("bookworm")
        depmod = Path(self._kernel.modules, "modules.dep").read_text(encoding="utf-8")
        self._leaves = LEAVES.findall(depmod)

    def boot(self, program: str, shares: int = 1, modules: int = 0) -> Marks:
        """Measure one boot."""
        tags = [f"share{number}" for number in range(shares)]
        words = [f"mount={tag}" for tag in tags]
        return boots.measure(
            Counted(
                self._kernel.image,
                boots.image(self._programs[program], self._kernel, *self._leaves[:modules]),
                " ".join(["rootfs=root", *words, "init=/target"]),
                self._root,
                ("root", *tags),
            )
        )

    def growth(self, what: str, counts: tuple[int, ...]) -> list[Figure]:
        """Measure what one more of something costs, by /init and by the floor."""
        cost = {
            program: [self.boot(program, **{what: count}).to_execve for count in counts]
            for program in self._programs
        }
        each = {
            program: [
                (b - a) / (to - of)
                for a, b, of, to in zip(found, found[1:], counts, counts[1:], strict=False)
            ]
            for program, found in cost.items()
        }
        one = what.removesuffix("s")
        numbers = f"{counts[0]} to {counts[-1]}"
        whole = {
            program: (found[-1] - found[0]) / (counts[-1] - counts[0])
            for program, found in cost.items()
        }
        return [
            Figure(f"each further {one}, {numbers}", whole["init"] / MEGA, "M"),
            Figure(f"the same against the floor ({one}s)", whole["init"] / whole["floor"], "", 1.1),
            *(
                Figure(f"the last {one}s against the first, {program}", by[-1] / by[0])
                for program, by in each.items()
            ),
        ]


def figures(*, short: bool = False) -> list[Figure]:
    """Measure; in short, a single boot of each program."""
    with boots.small_root() as root, tempfile.TemporaryDirectory() as made:
        programs = {"init": boots.INIT, "floor": boots.floor(made)}
        inside = Inside(root, programs)
        init, floor = (inside.boot(program) for program in programs)
        found = [
            Figure('"Run /init" to the target\'s execve', init.to_execve / MEGA, "M"),
            Figure("the same against the floor", init.to_execve / floor.to_execve, "", 1.25),
            Figure(
                '"Run /init" to the target\'s first instruction, against the floor',
                (init.target - init.init) / (floor.target - floor.init),
            ),
        ]
        if short:
            return found
        return found + inside.growth("shares", SHARES) + inside.growth("modules", MODULES)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--short", action="store_true", help="one boot of each")
    for figure in figures(short=parser.parse_args().short):
        print(figure.row(), flush=True)


if __name__ == "__main__":
    main()
