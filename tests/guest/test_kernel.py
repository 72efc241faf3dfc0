"""Reading of files: `read_file` reads to the end of a file and does not block."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from initrd.guest.kernel import read_file


def test_read_file_reads_to_the_end(tmp_path: Path) -> None:
    data = os.urandom(200_000)
    path = tmp_path / "file"
    path.write_bytes(data)
    assert read_file(str(path)) == data
    assert read_file(os.fsencode(path)) == data


def test_read_file_of_a_named_pipe_without_a_writer_returns_nothing(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    program = "import sys; from initrd.guest.kernel import read_file; print(read_file(sys.argv[1]))"
    command = [sys.executable, "-c", program, str(tmp_path / "pipe")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    assert done.stdout == "b''\n"


def test_read_file_of_a_missing_file_raises_an_error_with_its_path(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="missing"):
        read_file(f"{tmp_path}/missing")
