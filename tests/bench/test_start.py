"""The phases of the start of /init, read from a kernel log."""

import pytest

from bench import icount, start

LOG = """\
SeaBIOS\r
[    1.577000] Run /init as init process\r
[    1.577210] sys_getpid()\r
[    1.580900] sys_brk(brk: 0)\r
[    1.581800] sys_brk(brk: 0)\r
[    1.581810] sys_brk(brk: 21000)\r
[    1.591000] sys_getppid()\r
[    1.600000] sys_getpid()\r
[    1.600100] sys_mount(dev_name: 1, dir_name: 2)\r
"""


def test_log_timestamps_are_parsed_as_instruction_counts() -> None:
    events = list(icount.parse("[   12.000001] a [b] c\r\nno timestamp\n[    0.000000] d\n"))
    assert events == [(12_000_001_000, "a [b] c"), (0, "d")]


def test_phases_are_the_instructions_between_system_calls() -> None:
    assert start.phases(icount.parse(LOG)) == {
        "execve": 210_000,
        "unpack libraries": 3_690_000,
        "dynamic linking": 900_000,
        "start Python": 9_200_000,
        "import init.py": 9_000_000,
        "to the first line of init.py": 14_000_000,
        "to main()": 23_000_000,
    }


@pytest.mark.parametrize(
    "log",
    [
        pytest.param("", id="empty log"),
        pytest.param(LOG.replace("Run /init", "No /init"), id="/init not run"),
        pytest.param(LOG[: LOG.index("[    1.591")], id="log ends before Python has started"),
    ],
)
def test_log_without_a_complete_start_is_an_error(log: str) -> None:
    with pytest.raises(ValueError, match="/init did not start"):
        start.phases(icount.parse(log))


def test_table_counts_in_millions_of_instructions() -> None:
    assert start.table({"execve": 210_000}) == "execve                            0.21 M"
