"""Run pytest with the project's plugin in a process of its own, as a project that uses it does."""

import pytest

from tests.boot.images import TOP

_TIMEOUT = 120  # seconds for one test; it boots at most two machines


def run_nested(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, *words: str
) -> pytest.RunResult:
    """Run the tests in the directory of `pytester`; `words` are further arguments of pytest.

    When a test does not end, pytest prints where it is, and ends.
    """
    monkeypatch.setenv("PYTHONPATH", TOP)
    limit = ("-v", "--timeout", str(_TIMEOUT), "--timeout-method", "thread")
    return pytester.runpytest_subprocess("-p", "initrd.host.pytest_plugin", *limit, *words)
