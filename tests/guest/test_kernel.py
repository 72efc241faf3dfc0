"""Operations on files: `read_file` reads to the end and does not block; parts of files; entropy."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from initrd.guest.kernel import Kernel, read_file


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


@pytest.mark.parametrize("path", ["/dev/zero", "huge"])
def test_read_file_without_an_end_raises_an_error_with_its_path(tmp_path: Path, path: str) -> None:
    with (tmp_path / "huge").open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(OSError, match="File too large") as caught:
        read_file(str(tmp_path / path))
    assert caught.value.filename == str(tmp_path / path)


def test_read_file_of_a_missing_file_raises_an_error_with_its_path(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="missing"):
        read_file(f"{tmp_path}/missing")


def test_open_to_write_and_write_at_change_a_part_of_an_existing_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"0123456789")
    kernel = Kernel()
    fd = kernel.open_to_write(f"{tmp_path}/file")
    assert not os.get_inheritable(fd)
    kernel.write_at(fd, b"ab", 4)
    kernel.write(fd, b"c")
    kernel.close(fd)
    assert (tmp_path / "file").read_bytes() == b"c123ab6789"
    with pytest.raises(FileNotFoundError):
        kernel.open_to_write(f"{tmp_path}/missing")


def test_entropy_for_another_file_than_dev_random_is_an_error() -> None:
    kernel = Kernel()
    fd = kernel.open_to_write("/dev/null")
    with pytest.raises(OSError, match="ioctl"):
        kernel.add_entropy(fd, bytes(64))
    kernel.close(fd)
    with pytest.raises(OSError, match="descriptor"):
        kernel.add_entropy(fd, bytes(64))


def test_entropy_of_more_than_512_bytes_is_an_error() -> None:
    with pytest.raises(ValueError, match="more than 512 bytes"):
        Kernel().add_entropy(-1, bytes(513))
    with pytest.raises(OSError, match="descriptor"):
        Kernel().add_entropy(-1, bytes(512))


def test_type_of_a_file_system_is_its_magic_number() -> None:
    fd = os.open("/proc", os.O_RDONLY | os.O_DIRECTORY)
    assert Kernel().filesystem_type(fd) == 0x9FA0  # PROC_SUPER_MAGIC of linux/magic.h
    os.close(fd)
