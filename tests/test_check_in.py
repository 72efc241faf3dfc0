"""tools/check-in refuses what it cannot do, before it makes anything.

What it does is not tested here: it needs root, and downloads a system.
"""

import os
import subprocess
from pathlib import Path

import pytest

CHECK_IN = Path(__file__).parent.parent / "tools" / "check-in"


def check_in(cache: Path, path: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    environ = {"PATH": path, "CACHE": str(cache)}
    command = ["/bin/sh", str(CHECK_IN), *arguments]
    return subprocess.run(command, check=False, capture_output=True, text=True, env=environ)


@pytest.mark.parametrize("arguments", [(), ("",), ("--help",), ("../trixie",)])
def test_missing_or_invalid_suite_prints_the_usage(
    tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    run = check_in(tmp_path / "cache", os.environ["PATH"], *arguments)
    assert (run.returncode, run.stdout) == (2, "")
    assert run.stderr.startswith("tools/check-in: usage: tools/check-in SUITE")
    assert not (tmp_path / "cache").exists()


def test_ordinary_user_is_told_to_use_sudo(tmp_path: Path) -> None:
    program = tmp_path / "bin" / "id"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\necho 1000\n", encoding="utf-8")
    program.chmod(0o755)
    path = f"{program.parent}:{os.environ['PATH']}"
    run = check_in(tmp_path / "cache", path, "trixie", "STAGES=unit")
    assert (run.returncode, run.stdout) == (1, "")
    assert run.stderr.endswith(": sudo make check-in SUITE=trixie\n")
    assert not (tmp_path / "cache").exists()
