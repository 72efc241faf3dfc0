"""Write the report of a boot, for `--report FILE`: JSON, or a picture when FILE ends with .svg.

This module is imported only when there is a report to write.
"""

import json
import os
from contextlib import contextmanager

from initrd import __version__
from initrd.host.machine.run import PHASE_START
from initrd.host.report.svg import draw
from initrd.host.report.timeline import Phase, Timeline, process_age
from initrd.host.system.files import check_writable, save_file
from initrd.host.system.hosterror import HostError
from initrd.host.system.process import capture_output

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from initrd.host.machine.launch import Launch

_VERSION_TIMEOUT = 2.0  # seconds; the time of --timeout may be over


@contextmanager
def report_at_end(files: "Sequence[str]", launch: "Launch") -> "Iterator[Timeline]":
    """Record the boot inside the `with`, and write a report to each of `files` at its end.

    Raises HostError when a file cannot be written, at the beginning if that is certain already.
    """
    for file in files:
        check_writable(file)
    timeline = Timeline(age=process_age())
    timeline.phase_started(PHASE_START)
    try:
        yield timeline
    finally:
        phases = timeline.phases()
        configuration = describe_launch(launch)
        for file in files:
            save_file(render(file, configuration, phases), file)


def describe_launch(launch: "Launch") -> dict[str, str]:
    """Return the programs, the kernel and the root directory of a boot."""
    return {
        "chrootvm": __version__,
        "qemu": version_of(launch.setup.program),
        "virtiofsd": version_of(launch.virtiofsd.program),
        "accelerator": launch.setup.hardware.accelerator,
        "architecture": launch.setup.hardware.arch.name,
        "kernel": launch.kernel,
        "started": "uncompressed" if launch.is_uncompressed else "as it is",
        "root": launch.setup.shares[0].source,
    }


def render(file: str, configuration: dict[str, str], phases: "Sequence[Phase]") -> bytes:
    """Return the contents of the report `file`: as a picture for a name in .svg, else as JSON.

    A byte of a path that is not UTF-8 is written as \\udcNN: an escape that JSON has, and that
    os.fsencode() of Python turns into the byte.
    """
    total = max((phase.end for phase in phases), default=0.0)
    draw_or_list = _render_svg if file.endswith(".svg") else _render_json
    return draw_or_list(configuration, phases, total).encode(errors="backslashreplace")


def version_of(program: str) -> str:
    """Return the first line that `program --version` prints; empty when it prints none."""
    try:
        output = capture_output(program, "--version", timeout=_VERSION_TIMEOUT)
    except HostError:
        return ""
    return output.decode(errors="replace").partition("\n")[0].rstrip()


def _render_svg(configuration: dict[str, str], phases: "Sequence[Phase]", total: float) -> str:
    subtitle = (
        f"{os.path.basename(configuration['kernel'])} on {configuration['accelerator']}",
        configuration["qemu"],
        f"{total:.0f} ms in all",
    )
    return draw(f"Boot of {configuration['root']}", " · ".join(subtitle), phases)


def _render_json(configuration: dict[str, str], phases: "Sequence[Phase]", total: float) -> str:
    rows = [
        {
            "name": phase.name,
            "kind": phase.kind,
            "start_ms": round(phase.start, 1),
            "ms": round(phase.length, 1),
        }
        for phase in phases
    ]
    report = {"total_ms": round(total, 1), "about": configuration, "phases": rows}
    return json.dumps(report, indent=2) + "\n"
