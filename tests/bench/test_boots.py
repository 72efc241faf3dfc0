"""Instruction counts read from a boot's log, without the time of the idle task."""

import pytest

from bench import boots, icount
from bench.figure import Figure

SWITCH = (
    "sched_switch: prev_comm=x prev_pid={} prev_prio=120 prev_state=S ==> "
    "next_comm=y next_pid={} next_prio=120"
)
LOG = f"""\
<6>[    1.000000] Run /init as init process\r
<4>[    1.000100] {SWITCH.format(1, 0)}\r
<4>[    1.004100] {SWITCH.format(0, 7)}\r
<4>[    1.004200] {SWITCH.format(7, 1)}\r
<4>[    1.005000] sys_execve(filename: 1, argv: 2, envp: 3)\r
<4>[    1.005500] {SWITCH.format(1, 0)}\r
<4>[    1.006500] {SWITCH.format(0, 1)}\r
<13>[    1.007000] bench: target\r
<6>[    9.000000] reboot: Power down\r
"""


def test_marks_leave_out_the_time_of_the_idle_task() -> None:
    found = boots.marks(LOG)
    assert found == boots.Marks(1_000_000_000, 1_001_000_000, 1_002_000_000)
    assert found.to_execve == 1_000_000


def test_log_without_the_target_is_an_error() -> None:
    with pytest.raises(ValueError, match="the target has not run"):
        boots.marks(LOG.replace("bench: target", ""))


def test_log_line_with_a_level_is_parsed() -> None:
    assert list(icount.parse("<6>[    0.000002] a\n")) == [(2000, "a")]


@pytest.mark.parametrize(
    ("value", "budget", "more_is_better", "met"),
    [
        pytest.param(1.0, None, False, True, id="no budget"),
        pytest.param(1.0, 1.0, False, True, id="equal to the maximum"),
        pytest.param(1.1, 1.0, False, False, id="over the maximum"),
        pytest.param(1.1, 1.0, True, True, id="over the minimum"),
        pytest.param(0.9, 1.0, True, False, id="under the minimum"),
    ],
)
def test_figure_over_its_budget_is_marked(
    value: float, budget: float | None, *, more_is_better: bool, met: bool
) -> None:
    figure = Figure("x", value, "s", budget, more_is_better=more_is_better)
    assert figure.met is met
    assert ("over budget" in figure.row()) is not met
