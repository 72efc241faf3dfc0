"""The rounds of the wall-clock benchmark, its figures, and what a soak finds left behind."""

import os
import subprocess
from functools import partial
from pathlib import Path

import pytest

from bench import wall_clock
from bench.wall_clock import COLD, FIRST, OPTIONS, PLAIN, WARM

RUST = ("--virtiofsd", "rust")
TIMES = {
    PLAIN: [4.0, 8.0, 5.0],
    FIRST: [2.2, 4.3, 2.1],
    COLD: [2.0, 4.0, 2.0],
    WARM: [0.4, 0.4, 0.5],
    RUST: [2.0, 2.0, 2.0],
    WARM + RUST: [0.2, 0.3, 0.4],
    OPTIONS: [4.0, 4.0, 4.0],
    WARM + OPTIONS: [1.0, 1.0, 2.0],
}


def test_kinds_of_starts_are_timed_in_turn() -> None:
    calls: list[str] = []

    def timer(name: str) -> float:
        calls.append(name)
        return len(calls)

    timers = {COLD: partial(timer, "cold"), WARM: partial(timer, "warm")}
    assert wall_clock.time_in_turn(timers, 2) == {COLD: [1, 3], WARM: [2, 4]}
    assert calls == ["cold", "warm", "cold", "warm"]


def test_ratio_is_the_median_over_the_rounds_and_not_that_of_the_medians() -> None:
    assert wall_clock.median_ratio([1.0, 9.0, 4.0], [2.0, 10.0, 5.0]) == 0.8
    assert wall_clock.median_difference([1.0, 9.0, 4.0], [0.5, 1.0, 1.0]) == 3.0


def test_figures_compare_the_starts_with_one_kernel() -> None:
    figures = wall_clock.figures_of_kernel("K", {"C": COLD, "Rust": RUST}, TIMES)
    assert {figure.name: (round(figure.value, 3), figure.budget) for figure in figures} == {
        "chrootvm ROOT -- true against plain QEMU, K": (0.5, 0.5),
        "the same with --warm, K": (0.1, 0.12),
        "warm start against cold start, K, C": (0.2, 0.2),
        "warm start against cold start, K, Rust": (0.15, 0.2),
    }


def test_figures_of_options_have_the_cost_of_a_template_in_seconds() -> None:
    ratio, cost = wall_clock.figures_of_options("K", TIMES)
    assert (ratio.value, ratio.budget) == (0.25, 0.3)
    assert (round(cost.value, 3), cost.unit, cost.budget) == (0.2, "s", 0.3)


def test_soak_counts_each_start_that_fails(capsys: pytest.CaptureFixture[str]) -> None:
    results = iter([0.5, subprocess.CalledProcessError(125, "x", stderr=b"why"), 0.25])

    def start() -> float:
        result = next(results)
        if isinstance(result, Exception):
            raise result
        return result

    assert wall_clock.start_often([start], 3, jobs=1) == 1
    output = capsys.readouterr().out
    assert "start 2: " in output
    assert "\nwhy\n" in output
    assert "3 starts: median 0.38 s, longest 0.50 s" in output


def test_soak_uses_all_kinds_of_starts_in_turn() -> None:
    calls: list[str] = []

    def timer(name: str) -> float:
        calls.append(name)
        return 1.0

    starts = [partial(timer, name) for name in ("a", "b")]
    assert wall_clock.start_often(starts, 3, jobs=1) == 0
    assert calls == ["a", "b", "a"]


def test_process_is_found_by_its_temporary_directory(tmp_path: Path) -> None:
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    # The output shows that the new program runs; before, it has no environment.
    command = ["sh", "-c", "echo; read line"]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, env=environment, stdin=pipe, stdout=pipe) as process:
        try:
            assert process.stdout
            assert process.stdout.readline() == b"\n"
            assert wall_clock.find_processes(str(tmp_path)) == [f"/proc/{process.pid}"]
        finally:
            process.kill()
    assert wall_clock.find_processes(str(tmp_path)) == []


def test_files_in_directories_are_listed(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a/b").touch()
    assert wall_clock.list_files(str(tmp_path)) == {f"{tmp_path}/a", f"{tmp_path}/a/b"}
