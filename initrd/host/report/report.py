"""The report of a boot: `--report FILE`, as JSON, or as a picture when FILE ends with .svg.

Imported only when there is one to write.
"""

import json
import os
from contextlib import contextmanager

from initrd import __version__
from initrd.errors import HostError
from initrd.host.machine.run import PHASE_START
from initrd.host.report.svg import draw
from initrd.host.report.timeline import Phase, Timeline, process_age
from initrd.host.system.files import check_writable, save_file
from initrd.host.system.process import capture_output

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from initrd.host.machine.launch import Launch


@contextmanager
def report_at_end(files: "Sequence[str]", launch: "Launch") -> "Iterator[Timeline]":
    """Watch what happens inside the `with`, and write it to `files`. Raises HostError."""
    for file in files:
        check_writable(file)
    timeline = Timeline(age=process_age())
    timeline.phase_started(PHASE_START)
    try:
        yield timeline
    finally:
        phases = timeline.phases()
        about = facts(launch)
        for file in files:
            save_file(render(file, about, phases).encode(), file)


def facts(launch: "Launch") -> dict[str, str]:
    """Return what was booted with what."""
    return {
        "chrootvm": __version__,
        "qemu": version_of(launch.setup.program),
        "virtiofsd": version_of(launch.virtiofsd.program),
        "accelerator": launch.setup.hardware.accelerator,
        "architecture": launch.setup.hardware.arch.name,
        "kernel": launch.kernel,
        "started": "uncompressed" if launch.setup.kernel.is_open else "as it is",
        "root": launch.setup.shares[0].source,
    }


def render(file: str, about: dict[str, str], phases: "Sequence[Phase]") -> str:
    """Return the contents of a report whose name is `file`."""
    total = max((phase.end for phase in phases), default=0.0)
    if file.endswith(".svg"):
        words = (
            f"{os.path.basename(about['kernel'])} on {about['accelerator']}",
            about["qemu"],
            f"{total:.0f} ms in all",
        )
        return draw(f"Boot of {about['root']}", " · ".join(words), phases)
    rows = [
        {
            "name": phase.name,
            "kind": phase.kind,
            "start_ms": round(phase.start, 1),
            "ms": round(phase.length, 1),
        }
        for phase in phases
    ]
    report = {"total_ms": round(total, 1), "about": about, "phases": rows}
    return json.dumps(report, indent=2, ensure_ascii=False) + "\n"


def version_of(program: str) -> str:
    """Return the first line that a program says of its version; empty when it says none."""
    try:
        lines = capture_output(program, "--version").decode(errors="replace").splitlines()
    except HostError:
        return ""
    return lines[0] if lines else ""
