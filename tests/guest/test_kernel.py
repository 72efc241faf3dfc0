"""Files are read to their end, and never waited for."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from initrd.guest.kernel import read_file


def test_a_file_is_read_to_its_end_or_to_a_limit(tmp_path: Path) -> None:
    data = os.urandom(200_000)
    path = tmp_path / "file"
    path.write_bytes(data)
    assert read_file(str(path)) == data
    assert read_file(os.fsencode(path), 100) == data[:100]


def test_a_named_pipe_without_a_writer_is_empty(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    read = "import sys; from initrd.guest.kernel import read_file; print(read_file(sys.argv[1]))"
    command = [sys.executable, "-c", read, str(tmp_path / "pipe")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    assert done.stdout == "b''\n"


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="missing"):
        read_file(f"{tmp_path}/missing")
