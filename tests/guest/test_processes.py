"""Which processes are spared at the end: lists that anybody may have written."""

import os
from pathlib import Path

from initrd.guest.processes import spared


def test_no_directory_spares_nobody(tmp_path: Path) -> None:
    assert spared(f"{tmp_path}/missing") == frozenset()
    (tmp_path / "file").touch()
    assert spared(f"{tmp_path}/file") == frozenset()


def test_every_number_in_every_file_counts(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("12\n13 14\n")
    (tmp_path / "b").write_text("15")
    assert spared(str(tmp_path)) == {12, 13, 14, 15}


def test_what_is_no_list_of_numbers_is_passed_over(tmp_path: Path) -> None:
    (tmp_path / "directory").mkdir()
    (tmp_path / "dangling").symlink_to("nowhere")
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "words").write_bytes(b"-5 +6 seven \xff\xb2 8.0 " + b"9" * 5000)
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "good").write_text("21")
    assert spared(str(tmp_path)) == {21}
