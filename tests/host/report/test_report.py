"""The report of a boot: phases from marks and from the console, as JSON and as a picture."""

import json
import tracemalloc
from xml.etree import ElementTree

import pytest

from initrd.host.machine import run
from initrd.host.machine.run import (
    PHASE_COMMAND,
    PHASE_END,
    PHASE_KERNEL,
    PHASE_LOAD,
    PHASE_RESUME,
    PHASE_START,
    PHASE_TEMPLATE,
    BootObserver,
)
from initrd.host.report.report import render, version_of
from initrd.host.report.svg import draw
from initrd.host.report.timeline import Phase, Timeline, process_age

CONFIGURATION = {
    "kernel": "/boot/vmlinuz-6.1",
    "accelerator": "tcg",
    "qemu": "QEMU 7",
    "root": "/srv/<&>",
}


class Clock:
    """A clock, in seconds, that `advance` moves."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now

    def advance(self, milliseconds: float) -> None:
        self.now += milliseconds / 1000


def record(*events: tuple[float, str | bytes]) -> list[tuple[str, str, float, float]]:
    """Record events, each some milliseconds after the one before; return the phases."""
    clock = Clock()
    timeline = Timeline(clock, age=0.05)
    for milliseconds, event in events:
        clock.advance(milliseconds)
        if isinstance(event, str):
            timeline.phase_started(event)
        else:
            timeline.console_printed(event)
    phases = timeline.phases()
    return [(phase.name, phase.kind, round(phase.start), round(phase.length)) for phase in phases]


def test_phases_of_a_boot_follow_each_other_from_the_start_of_the_process() -> None:
    assert record(
        (30, PHASE_START),
        (20, PHASE_KERNEL),
        (1000, b"initrd: mount proc ...\r\ninitrd: mount proc [10.0 ms, at 0.8900 s]\r\n"),
        (0, b"initrd: the kernel [850.0 ms, at 0.0000 s]\r\n"),
        (40, b"initrd: load module 000-fuse.ko [20.0 m"),
        (0, b"s, at 0.9150 s]\r\nsomething else\r\n"),
        (5, PHASE_COMMAND),
        (7, PHASE_END),
        (3, b""),
    ) == [
        ("find files, make the image", "host", 0, 80),
        ("start the programs", "host", 80, 20),
        ("QEMU and its firmware", "kernel", 100, 100),
        ("the kernel", "kernel", 200, 850),
        ("mount proc", "init", 1090, 10),
        ("load module 000-fuse.ko", "init", 1115, 20),
        ("start the command", "init", 1135, 10),
        ("command", "command", 1145, 7),
        ("power off", "host", 1152, 3),
    ]


def test_a_boot_without_a_command_ends_in_the_phase_of_the_target() -> None:
    phases = record((0, PHASE_KERNEL), (100, b"initrd: a [8.0 ms, at 0.0900 s]\n"), (50, PHASE_END))
    assert phases[1:] == [
        ("QEMU and its firmware", "kernel", 50, 92),
        ("a", "init", 142, 8),
        ("command", "command", 150, 50),
        ("power off", "host", 200, 0),
    ]


def test_a_boot_without_a_step_of_init_ends_in_the_kernel_phase() -> None:
    assert [name for name, *_ in record((1, PHASE_START), (1, PHASE_KERNEL), (500, b"panic"))][
        -1
    ] == PHASE_KERNEL


def test_a_warm_start_has_the_steps_of_init_after_the_template() -> None:
    assert record(
        (30, PHASE_START),
        (10, PHASE_TEMPLATE),
        (2000, PHASE_LOAD),
        (100, PHASE_RESUME),
        (60, b"initrd: mount rootfs [20.0 ms, at 1.5000 s]\n"),  # by the template's clock
        (5, PHASE_COMMAND),
        (7, PHASE_END),
    ) == [
        ("find files, make the image", "host", 0, 80),
        ("start the programs", "host", 80, 10),
        ("make a template", "kernel", 90, 2000),
        ("load the template", "kernel", 2090, 100),
        ("continue from the template", "init", 2190, 40),
        ("mount rootfs", "init", 2230, 20),
        ("start the command", "init", 2250, 5),
        ("command", "command", 2255, 7),
        ("power off", "host", 2262, 0),
    ]


def test_a_warm_start_without_a_step_of_init_has_the_phase_of_the_template() -> None:
    phases = record((0, PHASE_LOAD), (100, PHASE_RESUME), (50, PHASE_COMMAND), (5, PHASE_END))
    assert phases[1:] == [
        ("load the template", "kernel", 50, 100),
        ("continue from the template", "init", 150, 50),
        ("command", "command", 200, 5),
        ("power off", "host", 205, 0),
    ]


def test_a_boot_after_a_template_that_failed_has_the_steps_of_init_once() -> None:
    phases = record(
        (0, PHASE_TEMPLATE),
        (9, PHASE_LOAD),
        (9, PHASE_KERNEL),
        (100, b"initrd: a [8.0 ms, at 0.0900 s]\n"),
        (1, PHASE_COMMAND),
    )
    assert [name for name, *_ in phases[1:]] == [
        "make a template",
        "load the template",
        "QEMU and its firmware",
        "a",
        "start the command",
        "command",
    ]


@pytest.mark.parametrize(
    "name", [getattr(run, name) for name in dir(run) if name.startswith("PHASE_")]
)
def test_every_phase_can_be_in_a_report(name: str) -> None:
    assert name in [phase for phase, *_ in record((0, name))]


def test_the_base_class_of_observers_records_nothing() -> None:
    observer = BootObserver()
    observer.phase_started(PHASE_START)
    observer.console_printed(b"initrd: a [8.0 ms]\n")
    assert not vars(observer)


def test_the_json_report_has_every_phase_in_milliseconds() -> None:
    phases = (Phase("kernel", "kernel", 10.04, 90.06), Phase("a", "init", 100.1, 5))
    report = json.loads(render("report.json", CONFIGURATION, phases))
    assert report["total_ms"] == 105.1
    assert report["about"]["accelerator"] == "tcg"
    assert report["phases"][0] == {
        "name": "kernel",
        "kind": "kernel",
        "start_ms": 10.0,
        "ms": 90.1,
    }


@pytest.mark.parametrize(
    ("file", "written"), [("report.json", rb"/a\udcff"), ("boot.svg", rb"/a\xff")]
)
def test_a_report_names_a_root_directory_that_is_not_utf_8(file: str, written: bytes) -> None:
    assert written in render(file, {**CONFIGURATION, "root": "/a\udcff"}, ())


@pytest.mark.parametrize(
    "phases",
    [
        pytest.param((), id="no phases"),
        pytest.param((Phase("x" * 300, "init", 0, 0),), id="no time, a long name"),
        pytest.param((Phase("<&'\">", "host", 0, 9), Phase("b", "command", 9, 1e6)), id="markup"),
    ],
)
def test_the_picture_is_well_formed_and_has_a_row_for_each_phase(phases: tuple[Phase, ...]) -> None:
    picture = ElementTree.fromstring(render("boot.svg", CONFIGURATION, phases))
    assert picture.tag == "{http://www.w3.org/2000/svg}svg"
    rows = picture.findall("{http://www.w3.org/2000/svg}g")
    assert [row[0].text.partition(":")[0] for row in rows if row[0].text] == [
        phase.name for phase in phases
    ]


def test_position_and_width_of_a_bar_are_proportional_to_time() -> None:
    picture = draw("t", "s", (Phase("a", "host", 0, 50), Phase("b", "init", 50, 50)))
    bars = [line for line in picture.splitlines() if "rx='2'" in line and "height='12'" in line]
    assert "x='400.0'" in bars[0]
    assert "x='720.0'" in bars[1]
    assert all("width='320.0'" in bar for bar in bars)


def test_a_program_that_cannot_be_run_has_no_version() -> None:
    assert version_of("/no/such/program") == ""
    assert version_of("true") == "" or "true" in version_of("true")


def test_process_age_is_positive() -> None:
    assert 0 < process_age() < 100_000


@pytest.mark.parametrize(
    "piece",
    [
        b"initrd: x [1.0 ms, at 1.0 s]\n",
        b"initrd: " + b" [1" * 1000,
        b"x" * 5000,
        b"initrd: " + b"x" * 5000 + b" [1.0 ms, at 1.0 s]\n",
        b"initrd: x [" + b"9" * 400 + b".0 ms, at 1.0 s]\n",
    ],
    ids=["steps", "beginnings of steps", "a line without an end", "long steps", "long numbers"],
)
def test_forged_steps_are_limited(piece: bytes) -> None:
    timeline = Timeline()
    timeline.phase_started(PHASE_KERNEL)
    data = piece * (1 + (1 << 16) // len(piece))
    timeline.console_printed(data)
    tracemalloc.start()
    try:
        for _ in range(20):
            timeline.console_printed(data)
        kept, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert kept < 100_000
    phases = timeline.phases()
    assert len(phases) < 1010
    assert all(phase.length < 1e12 for phase in phases)
