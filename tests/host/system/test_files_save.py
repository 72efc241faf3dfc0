"""`save_file`: outputs that are replaced, and outputs that are refused."""

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from initrd.host.system.files import check_writable, save_file, write_output
from initrd.host.system.hosterror import HostError

REPOSITORY = Path(__file__).parents[3]


def test_a_new_file_has_the_content_and_the_mode_of_the_umask(tmp_path: Path) -> None:
    umask = os.umask(0o027)
    save_file(b"new", f"{tmp_path}/image")
    os.umask(umask)
    assert (tmp_path / "image").read_bytes() == b"new"
    assert stat.S_IMODE((tmp_path / "image").stat().st_mode) == 0o640
    assert os.listdir(tmp_path) == ["image"]


def test_an_existing_file_is_replaced_and_not_written_into(tmp_path: Path) -> None:
    (tmp_path / "image").write_bytes(b"old")
    with (tmp_path / "image").open("rb") as reader:
        save_file(b"new", f"{tmp_path}/image")
        assert reader.read() == b"old"
    assert (tmp_path / "image").read_bytes() == b"new"


def test_a_symbolic_link_stays_and_its_target_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to("folder/image")
    save_file(b"new", f"{tmp_path}/link")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "folder/image").read_bytes() == b"new"


@pytest.mark.parametrize("name", ["a b", "\udcff\n", "x" * 255], ids=ascii)
def test_a_file_name_may_contain_any_bytes_and_be_255_bytes_long(tmp_path: Path, name: str) -> None:
    save_file(b"new", f"{tmp_path}/{name}")
    assert os.listdir(tmp_path) == [name]


def test_a_relative_name_is_written_in_the_working_directory(tmp_path: Path) -> None:
    code = "from initrd.host.system.files import save_file; save_file(b'new', 'image')"
    subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env={"PYTHONPATH": str(REPOSITORY)}, check=True
    )
    assert (tmp_path / "image").read_bytes() == b"new"


@pytest.mark.parametrize(
    ("output", "why"),
    [
        pytest.param("{}", "it is no regular file", id="a directory"),
        pytest.param("/dev/null", "it is no regular file", id="a device"),
        pytest.param("{}/nowhere/image", "No such file or directory", id="no such directory"),
        pytest.param("{}/file/image", "Not a directory", id="below a file"),
        pytest.param("{}/file/", "it is no regular file", id="a file with a slash"),
        pytest.param("{}/new/", "it is no regular file", id="a missing file with a slash"),
        pytest.param("{}/" + "x" * 256, "File name too long", id="name too long"),
        pytest.param("", "it is no regular file", id="empty"),
    ],
)
def test_an_output_that_cannot_be_replaced_raises_an_error_and_changes_nothing(
    tmp_path: Path, output: str, why: str
) -> None:
    (tmp_path / "file").write_bytes(b"old")
    with pytest.raises(HostError, match=why):
        save_file(b"new", output.format(tmp_path))
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)
    assert os.listdir(tmp_path) == ["file"]
    assert (tmp_path / "file").read_bytes() == b"old"


def test_a_failed_write_keeps_the_old_file_and_leaves_no_temporary_file(tmp_path: Path) -> None:
    (tmp_path / "image").write_bytes(b"old")
    code = (
        "import resource; from initrd.host.system.files import save_file\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))\n"
        f"save_file(bytes(9999), '{tmp_path}/image')"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )
    assert f"cannot write {tmp_path}/image: File too large" in done.stderr
    assert os.listdir(tmp_path) == ["image"]
    assert (tmp_path / "image").read_bytes() == b"old"


@pytest.mark.parametrize(
    ("path", "why"),
    [("missing/file", "it is not there"), ("", "no regular file"), ("d", "no regular file")],
)
def test_check_writable_reports_an_unwritable_output_and_writes_nothing(
    tmp_path: Path, path: str, why: str
) -> None:
    (tmp_path / "d").mkdir()
    with pytest.raises(HostError, match=why):
        check_writable(f"{tmp_path}/{path}")
    check_writable(f"{tmp_path}/d/file")
    assert not os.listdir(tmp_path / "d")


def test_named_pipe_gets_the_content_and_stays(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with subprocess.Popen(["cat", pipe], stdout=subprocess.PIPE) as reader:
        write_output(b"new", str(pipe))
        assert reader.communicate()[0] == b"new"
    assert stat.S_ISFIFO(pipe.stat().st_mode)


def test_open_descriptor_is_written_at_its_position(tmp_path: Path) -> None:
    with (tmp_path / "file").open("wb", buffering=0) as file:
        file.write(b"old ")
        write_output(b"new", f"/dev/fd/{file.fileno()}")
        file.write(b" end")
    assert (tmp_path / "file").read_bytes() == b"old new end"
    assert os.listdir(tmp_path) == ["file"]


def test_regular_file_is_replaced_as_by_save_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"old")
    with (tmp_path / "file").open("rb") as reader:
        write_output(b"new", f"{tmp_path}/file")
        assert reader.read() == b"old"


@pytest.mark.parametrize(
    ("output", "why"),
    [
        pytest.param("/dev/full", "No space left on device", id="a full device"),
        pytest.param("/dev/fd/999", "Bad file descriptor", id="a descriptor that is not open"),
        pytest.param("/dev/fd/99999999999", "there are no such", id="a large number"),
        pytest.param("/dev/fd/{}", "it is a terminal", id="a terminal"),
        pytest.param("/dev/fd", "it is no regular file", id="a directory"),
    ],
)
def test_output_that_takes_nothing_is_explained(output: str, why: str) -> None:
    terminal, other = os.openpty()
    try:
        with pytest.raises(HostError, match=f"cannot write .*: {why}"):
            write_output(b"new", output.format(other))
    finally:
        os.close(terminal)
        os.close(other)
