"""The errors that name the file with the console of a machine that failed."""

import os
from pathlib import Path

import pytest

from initrd.host.qemu.console import KernelPanic, keep_console, keep_panic
from initrd.host.system.hosterror import HostError

FAILED = HostError("the boot failed", "no root", "another")


def test_error_names_the_file(tmp_path: Path) -> None:
    error = keep_console(FAILED, str(tmp_path), "text")
    (name,) = os.listdir(tmp_path)
    assert error.why == f"no root (the guest's console is kept in {tmp_path}/{name})"
    assert keep_console(FAILED, "/proc/nowhere", "") is FAILED


def test_panic_names_the_file(tmp_path: Path) -> None:
    panic = KernelPanic("the guest's kernel panicked", "why")
    keep_panic(panic, str(tmp_path), "text")
    assert Path(panic.console).read_text(encoding="utf-8") == "text"


def test_error_says_why_there_is_no_file(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    error = keep_console(FAILED, f"{tmp_path}/file/logs", "text")
    assert f"console is not kept: cannot use the directory {tmp_path}/file/logs: " in error.why
    panic = KernelPanic("the guest's kernel panicked", "why")
    keep_panic(panic, f"{tmp_path}/file/logs", "text")
    assert not panic.console
    assert f"{tmp_path}/file is no directory" in str(panic)


@pytest.mark.parametrize("level", ["initrd", "initrd/failed-boots"])
def test_link_in_place_of_a_directory_is_not_followed(tmp_path: Path, level: str) -> None:
    target = tmp_path / "target"
    (target / "failed-boots").mkdir(0o700, parents=True)
    logs = [f"1970-01-{day:02}t00-00-00-abcdef.log" for day in range(1, 31)]
    for name in logs:
        (target / name).touch()
        (target / "failed-boots" / name).touch()
    path = tmp_path / "state" / level
    path.parent.mkdir(0o700, parents=True)
    path.symlink_to(target)
    error = keep_console(FAILED, f"{tmp_path}/state/initrd/failed-boots", "text")
    assert "is a symbolic link" in error.why
    assert sorted(os.listdir(target)) == [*logs, "failed-boots"]
    assert sorted(os.listdir(target / "failed-boots")) == logs
