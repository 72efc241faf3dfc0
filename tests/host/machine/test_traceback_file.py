"""The last handler of exceptions."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from initrd.host.machine.traceback_file import Mistake, explain_mistakes
from initrd.host.system.hosterror import HostError
from initrd.host.system.loop import Cancelled

TOP = Path(__file__).parents[3]


def test_unexpected_exception_is_one_sentence_and_the_traceback_is_in_a_file(
    tmp_path: Path,
) -> None:
    with pytest.raises(Mistake) as raised, explain_mistakes("x", {"XDG_STATE_HOME": str(tmp_path)}):
        raise LookupError("one\n two \udcff")
    match = re.fullmatch(
        r"a mistake of x's own: LookupError: one two \\xff \(the traceback is kept in (.+)\)",
        str(raised.value),
    )
    assert match
    text = Path(match[1]).read_text()
    assert text.startswith("Traceback")
    assert text.endswith("LookupError: one\n two \\udcff\n")


@pytest.mark.parametrize("folder", ["/dev/null/state", "/a\0b"])
def test_traceback_that_cannot_be_kept_goes_to_standard_error(
    folder: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(Mistake) as raised, explain_mistakes("x", {"XDG_STATE_HOME": folder}):
        raise LookupError
    assert str(raised.value).startswith(
        "a mistake of x's own: LookupError (the traceback is above, because it cannot be kept: "
    )
    assert capfd.readouterr().err.startswith("Traceback")


@pytest.mark.parametrize(
    "error",
    [HostError("a", "b"), Cancelled(), KeyboardInterrupt(), SystemExit(3)],
    ids=lambda error: type(error).__name__,
)
def test_expected_exceptions_pass_unchanged(error: BaseException) -> None:
    with pytest.raises(type(error)) as raised, explain_mistakes("x", {}):
        raise error
    assert raised.value is error


@pytest.mark.parametrize(
    ("program", "status"),
    [
        (
            "from initrd.host import chrootvm\n"
            "chrootvm.parse = lambda _: 1 / 0\n"
            "sys.exit(chrootvm.main([]))\n",
            125,
        ),
        (
            "import runpy\n"
            "from initrd.host.image import lsinitramfs\n"
            "lsinitramfs.list_image = lambda _: 1 / 0\n"
            "sys.argv = ['mkvirtinitrd', '--list', 'image']\n"
            "runpy.run_path('scripts/mkvirtinitrd', run_name='__main__')\n",
            1,
        ),
    ],
    ids=["chrootvm", "mkvirtinitrd"],
)
def test_programs_end_with_their_own_status(tmp_path: Path, program: str, status: int) -> None:
    done = subprocess.run(
        [sys.executable, "-c", f"import sys\n{program}"],
        capture_output=True,
        text=True,
        check=False,
        cwd=TOP,
        env={**os.environ, "XDG_STATE_HOME": str(tmp_path)},
        timeout=60,
    )
    assert done.returncode == status
    (line,) = done.stderr.splitlines()
    assert "'s own: ZeroDivisionError: division by zero (the traceback is kept in " in line
