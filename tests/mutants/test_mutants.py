"""The tool that changes the sources: its changes, which tests it runs, and a run of ten lines."""

import sys
from pathlib import Path

import pytest

from tests.mutants.mutations import find_mutations
from tests.mutants.sandbox import measure, run_confined
from tests.mutants.selection import select_tests

TOP = Path(__file__).parents[2]
MODULE = b"""def larger(a: int, b: int) -> int:
    \"\"\"Return the larger one.\"\"\"
    if a > b:
        return a
    return b
"""
TESTS = """
from module import larger
def test_larger() -> None:
    assert [larger(1, 2), larger(3, 2)] == [2, 3]
"""


@pytest.mark.parametrize(
    ("source", "changes"),
    [
        ("x = a < b", ["x = (a <= b)"]),
        ("x = a in b", ["x = (a not in b)"]),
        ("x = a and b", ["x = (a or b)"]),
        ("x = not a", ["x = (a)"]),
        ("x = a + 1", ["x = (a - 1)", "x = a + (2)"]),
        ("x = True", ["x = (False)"]),
        ("x = 'mode=1777'", ["x = ('mode=2777')"]),
        ("x = 'a text'", []),
        ("x = f'{a} 1'", []),
        ("x: 'int' = 1", ["x: 'int' = (2)"]),
        ("f(a, b)", ["f((b), a)", "pass"]),
        ("x = f(a, a)", []),
        ("a.b = c", ["pass"]),
        ("if a: pass", ["if (not (a)): pass"]),
        ("TYPE_CHECKING = False", []),
        ('"""A docstring."""', []),
        ("x = 'ä' + b", ["x = ('äX') + b", "x = ('ä' - b)"]),
    ],
)
def test_changes_of_a_statement(source: str, changes: list[str]) -> None:
    data = source.encode()
    found = sorted(mutation.apply(data).decode() for mutation in find_mutations(data))
    if source == "f(a, b)":
        changes = ["(f(b, a))", "pass"]
    assert found == sorted(changes)


def test_changes_of_all_sources_are_valid_python() -> None:
    for path in (TOP / "initrd/guest").rglob("*.py"):
        source = path.read_bytes()
        for mutation in find_mutations(source)[::25]:
            compile(mutation.apply(source), path, "exec")
            assert mutation.describe().count("\n") == 0


def test_tests_of_a_module_have_its_name_or_import_it() -> None:
    assert select_tests(Path("initrd/guest/plan.py"), TOP)[0] == "tests/guest/test_plan.py"
    tests = select_tests(Path("initrd/guest/command/supervise.py"), TOP)
    assert tests[0] == "tests/guest/command/test_supervise.py"
    assert not any(name.startswith("tests/boot") for name in tests)


def test_changes_of_a_small_module_are_noticed_except_for_an_equivalent_one(tmp_path: Path) -> None:
    module = tmp_path / "module.py"
    (tmp_path / "test_module.py").write_text(TESTS)
    results = {}
    for mutation in find_mutations(MODULE):
        module.write_bytes(mutation.apply(MODULE))
        results[mutation.after] = run_confined(tmp_path, tmp_path, ["test_module.py"], 60)
    assert results == {
        "(a >= b)": "passed",  # the larger one of two equal numbers
        "(not (a > b))": "failed",
        "return None": "failed",
    }


def test_run_that_has_no_end_is_a_timeout_and_files_elsewhere_cannot_be_changed(
    tmp_path: Path,
) -> None:
    place = tmp_path / "place"
    place.mkdir()
    elsewhere = {tmp_path / "other": "passed", Path(sys.prefix, "other"): "failed"}
    for other, result in elsewhere.items():  # /tmp is one of its own, the rest is read-only
        text = f"from pathlib import Path\ndef test_a():\n    path = Path({str(other)!r})\n"
        text += "    path.parent.mkdir(parents=True, exist_ok=True)\n    path.touch()\n"
        (place / "test_a.py").write_text(text)
        assert run_confined(place, place, ["test_a.py"], 60) == result
        assert not other.exists()
    (place / "test_a.py").write_text("import time\ndef test_a():\n    time.sleep(1000)\n")
    assert run_confined(place, place, ["test_a.py"], 3) == "timeout"


def test_tests_that_fail_without_a_change_and_durations_are_found(tmp_path: Path) -> None:
    (tmp_path / "test_a.py").write_text(
        "import time\nimport pytest\n@pytest.mark.parametrize('a', ['x y', 'z'])\n"
        "def test_a(a):\n    time.sleep(0.06)\n    assert a == 'z', 'a - b'\n"
    )
    baseline = measure(tmp_path, tmp_path, ["test_a.py"])
    assert baseline.failing == ("test_a.py::test_a[x y]",)
    assert list(baseline.durations) == ["test_a.py"]
    assert 0.1 < baseline.durations["test_a.py"] < 60
    words = ["test_a.py", "--deselect=test_a.py::test_a[x y]"]
    assert run_confined(tmp_path, tmp_path, words, 60) == "passed"


def test_signal_to_the_process_group_does_not_reach_the_caller(tmp_path: Path) -> None:
    text = "import os, signal\ndef test_a():\n    os.kill(0, signal.SIGKILL)\n"
    (tmp_path / "test_a.py").write_text(text)
    assert run_confined(tmp_path, tmp_path, ["test_a.py"], 60).startswith("error: ")
