"""The report of a boot: phases from marks and from what /init says, as JSON and as a picture."""

import json
from xml.etree import ElementTree

import pytest

from initrd.host.machine.run import (
    PHASE_COMMAND,
    PHASE_END,
    PHASE_KERNEL,
    PHASE_START,
    BootObserver,
)
from initrd.host.report.report import render, version_of
from initrd.host.report.svg import draw
from initrd.host.report.timeline import Phase, Timeline, process_age

ABOUT = {"kernel": "/boot/vmlinuz-6.1", "accelerator": "tcg", "qemu": "QEMU 7", "root": "/srv/<&>"}


class Clock:
    """Seconds that pass when told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now

    def pass_by(self, milliseconds: float) -> None:
        self.now += milliseconds / 1000


def told(*events: tuple[float, str | bytes]) -> list[tuple[str, str, float, float]]:
    """Play events, each after some milliseconds; return the phases."""
    clock = Clock()
    timeline = Timeline(clock, age=0.05)
    for milliseconds, event in events:
        clock.pass_by(milliseconds)
        if isinstance(event, str):
            timeline.phase_started(event)
        else:
            timeline.console_printed(event)
    phases = timeline.phases()
    return [(phase.name, phase.kind, round(phase.start), round(phase.length)) for phase in phases]


def test_phases_follow_each_other_from_the_start_of_the_process_on() -> None:
    assert told(
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


def test_a_boot_without_a_command_is_the_targets_from_the_last_step_on() -> None:
    phases = told((0, PHASE_KERNEL), (100, b"initrd: a [8.0 ms, at 0.0900 s]\n"), (50, PHASE_END))
    assert phases[1:] == [
        ("QEMU and its firmware", "kernel", 50, 92),
        ("a", "init", 142, 8),
        ("command", "command", 150, 50),
        ("power off", "host", 200, 0),
    ]


def test_a_boot_that_fails_early_has_a_report_too() -> None:
    assert [name for name, *_ in told((1, PHASE_START), (1, PHASE_KERNEL), (500, b"panic"))][
        -1
    ] == PHASE_KERNEL


def test_by_default_nobody_listens() -> None:
    watch = BootObserver()
    watch.phase_started(PHASE_START)
    watch.console_printed(b"initrd: a [8.0 ms]\n")
    assert not vars(watch)


def test_json_has_every_phase_in_milliseconds() -> None:
    phases = (Phase("kernel", "kernel", 10.04, 90.06), Phase("a", "init", 100.1, 5))
    report = json.loads(render("report.json", ABOUT, phases))
    assert report["total_ms"] == 105.1
    assert report["about"]["accelerator"] == "tcg"
    assert report["phases"][0] == {
        "name": "kernel",
        "kind": "kernel",
        "start_ms": 10.0,
        "ms": 90.1,
    }


@pytest.mark.parametrize(
    "phases",
    [
        pytest.param((), id="nothing"),
        pytest.param((Phase("x" * 300, "init", 0, 0),), id="no time, a long name"),
        pytest.param((Phase("<&'\">", "host", 0, 9), Phase("b", "command", 9, 1e6)), id="markup"),
    ],
)
def test_the_picture_is_well_formed_and_has_a_row_for_each_phase(phases: tuple[Phase, ...]) -> None:
    picture = ElementTree.fromstring(render("boot.svg", ABOUT, phases))
    assert picture.tag == "{http://www.w3.org/2000/svg}svg"
    rows = picture.findall("{http://www.w3.org/2000/svg}g")
    assert [row[0].text.partition(":")[0] for row in rows if row[0].text] == [
        phase.name for phase in phases
    ]


def test_bars_lie_where_their_time_is() -> None:
    picture = draw("t", "s", (Phase("a", "host", 0, 50), Phase("b", "init", 50, 50)))
    bars = [line for line in picture.splitlines() if "rx='2'" in line and "height='12'" in line]
    assert "x='400.0'" in bars[0]
    assert "x='720.0'" in bars[1]
    assert all("width='320.0'" in bar for bar in bars)


def test_what_does_not_answer_has_no_version() -> None:
    assert version_of("/no/such/program") == ""
    assert version_of("true") == "" or "true" in version_of("true")


def test_the_age_of_this_process_is_known() -> None:
    assert 0 < process_age() < 100_000
