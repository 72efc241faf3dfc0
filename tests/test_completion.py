"""The completion of chrootvm, in a real bash."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from initrd.host.machine.cli import OPTIONS

TOP = Path(__file__).parent.parent


def complete(folder: Path, *words: str) -> set[str]:
    """Return what bash offers for the last of the words after `chrootvm`."""
    program = folder / "chrootvm"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} {TOP}/scripts/chrootvm "$@"\n')
    program.chmod(0o755)
    script = (
        f'source "{TOP}/completions/chrootvm.bash"; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); '
        '_chrootvm; printf "%s\\n" "${COMPREPLY[@]}"'
    )
    environment = {**os.environ, "XDG_RUNTIME_DIR": str(folder)}
    done = subprocess.run(
        ["bash", "-c", script, "bash", str(program), *words],
        check=True,
        capture_output=True,
        text=True,
        cwd=folder,
        env=environment,
    )
    assert done.stderr == ""
    return set(done.stdout.split())


def test_all_options_are_offered(tmp_path: Path) -> None:
    assert complete(tmp_path, "-") == {option.name for option in OPTIONS}
    assert complete(tmp_path, "--net", "--mem") == {"--memory"}


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        ([""], {"folder"}),
        (["--kernel", "f"], {"file", "folder"}),
        (["--accel", "k"], {"kvm"}),
        (["folder", "--", "f"], {"file", "folder"}),
        (["--in", ""], set()),
    ],
)
def test_values_of_options_and_operands(
    tmp_path: Path, words: list[str], offered: set[str]
) -> None:
    tmp_path.chmod(0o700)
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    assert complete(tmp_path, *words) - {"chrootvm"} == offered
