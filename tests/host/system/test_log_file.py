"""Files of the state directory: consoles of failed boots, tracebacks."""

import os
from pathlib import Path

from initrd.host.system.log_file import save_log


def test_file_is_for_its_owner_only(tmp_path: Path) -> None:
    path = Path(save_log(f"{tmp_path}/a/b", "text \udcff\n"))
    assert path.read_bytes() == b"text \xff\n"
    assert (path.stat().st_mode & 0o777, path.parent.stat().st_mode & 0o777) == (0o600, 0o700)


def test_only_the_ten_newest_files_are_kept(tmp_path: Path) -> None:
    paths = [save_log(str(tmp_path), "", now=float(day * 86400)) for day in range(15)]
    assert sorted(os.listdir(tmp_path)) == [os.path.basename(path) for path in paths[-10:]]


def test_files_of_the_user_are_not_removed(tmp_path: Path) -> None:
    names = ["a.log", "00000.log", "2026-01-01.log", "2026-01-01t00-00-00-12345.log", "x"]
    for name in names:
        (tmp_path / name).touch()
    for day in range(15):
        save_log(str(tmp_path), "", now=float(day * 86400))
    assert set(names) < set(os.listdir(tmp_path))
    assert len(os.listdir(tmp_path)) == 10 + len(names)
