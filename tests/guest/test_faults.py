"""Any failing call of any kind of boot is named, or the boot goes on."""

import errno

import pytest

from tests.guest.faults import CASES, fail_each_call


@pytest.mark.parametrize("name", CASES)
def test_any_failing_call_is_named_or_the_boot_goes_on(name: str) -> None:
    problems: list[str] = []
    assert fail_each_call(CASES[name], errno.EIO, problems.append) > 10
    assert not problems, "\n".join(problems)
