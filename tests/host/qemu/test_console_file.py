"""The files with the consoles of machines that failed, and the errors that name them."""

import os
from pathlib import Path

import pytest

from initrd.host.qemu.console import KernelPanic
from initrd.host.qemu.console_file import keep_console, keep_panic, save_console
from initrd.host.system.hosterror import HostError

FAILED = HostError("the boot failed", "no root", "another")


def test_file_is_for_its_owner_only(tmp_path: Path) -> None:
    path = Path(save_console(f"{tmp_path}/a/b", "text \udcff\n"))
    assert path.read_bytes() == b"text \xff\n"
    assert (path.stat().st_mode & 0o777, path.parent.stat().st_mode & 0o777) == (0o600, 0o700)


def test_only_the_ten_newest_files_are_kept(tmp_path: Path) -> None:
    paths = [save_console(str(tmp_path), "", now=float(day * 86400)) for day in range(15)]
    assert sorted(os.listdir(tmp_path)) == [os.path.basename(path) for path in paths[-10:]]


def test_files_of_the_user_are_not_removed(tmp_path: Path) -> None:
    names = ["a.log", "00000.log", "2026-01-01.log", "2026-01-01t00-00-00-12345.log", "x"]
    for name in names:
        (tmp_path / name).touch()
    for day in range(15):
        save_console(str(tmp_path), "", now=float(day * 86400))
    assert set(names) < set(os.listdir(tmp_path))
    assert len(os.listdir(tmp_path)) == 10 + len(names)


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
