"""Moving a tree to another directory: attributes are kept, and the source is freed meanwhile."""

import os
import socket
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from initrd.guest.movetree import CHUNK, move_tree

Excluded = frozenset[tuple[str, ...]]


@pytest.fixture
def old(tmp_path: Path) -> Path:
    (tmp_path / "old").mkdir(mode=0o751)
    return tmp_path / "old"


@pytest.fixture
def new(tmp_path: Path) -> Path:
    (tmp_path / "new").mkdir()
    return tmp_path / "new"


def move(old: Path, new: Path, excluded: Excluded = frozenset()) -> None:
    source, target = (os.open(path, os.O_RDONLY | os.O_DIRECTORY) for path in (old, new))
    try:
        move_tree(source, target, excluded.__contains__)
    finally:
        os.close(source)
        os.close(target)


def files(directory: Path) -> Iterator[bytes]:
    for folder, _, names in os.walk(os.fsencode(directory)):
        yield from (os.path.join(folder, name) for name in names)


def snapshot(directory: Path) -> dict[bytes, tuple[Any, ...]]:
    """Return mode, owner, time, device, links and contents of each path in a directory."""
    result = {}
    for folder, directories, names in os.walk(os.fsencode(directory)):
        for path in (folder, *(os.path.join(folder, name) for name in (*directories, *names))):
            status = os.lstat(path)
            contents: Any = None
            if stat.S_ISREG(status.st_mode):
                with open(path, "rb") as file:
                    contents = file.read()
            elif stat.S_ISLNK(status.st_mode):
                contents = os.readlink(path)
            owner = (status.st_uid, status.st_gid)
            links = 0 if stat.S_ISDIR(status.st_mode) else status.st_nlink
            fields = (status.st_mode, owner, status.st_mtime_ns, status.st_rdev, links, contents)
            result[os.path.relpath(path, os.fsencode(directory))] = fields
    return result


def create_tree_with_all_file_types(old: Path) -> None:
    (old / "bin").mkdir()
    (old / "bin/sh").write_bytes(b"#!shell")
    (old / "bin/sh").chmod(0o4755)
    (old / "bin/link").symlink_to("sh")
    (old / "bin/dangling").symlink_to("/nowhere")
    (old / "bin/up").symlink_to("../..")
    (old / "empty").touch(mode=0o600)
    (old / "odd").mkdir(mode=0o1777)
    (old / "odd").chmod(0o3711)
    for name in (b"a b", b"\xff\xfe", b"-rf", b"new\nline", "é".encode()):
        with open(os.path.join(os.fsencode(old), b"odd", name), "wb") as file:
            file.write(name)
    os.mkfifo(old / "fifo", 0o640)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(old / "socket"))
    os.link(old / "bin/sh", old / "odd/busybox")
    os.link(old / "bin/link", old / "odd/link", follow_symlinks=False)
    (old / "read-only").mkdir()
    (old / "read-only/file").write_text("x")
    os.utime(old / "bin/sh", ns=(1, 981_173_106_123_456_789))
    os.utime(old / "bin/link", ns=(2, 3_000_000_000), follow_symlinks=False)
    os.utime(old / "odd", ns=(3, 981_173_107_000_000_001))
    (old / "read-only").chmod(0o555)


def test_contents_and_attributes_of_all_file_types_are_kept(old: Path, new: Path) -> None:
    create_tree_with_all_file_types(old)
    (old / "read-only").chmod(0o755)  # without it, only root can delete the file in it
    before = snapshot(old)
    move(old, new)
    assert snapshot(new) == before


def test_hard_links_are_kept(old: Path, new: Path) -> None:
    create_tree_with_all_file_types(old)
    (old / "read-only").chmod(0o755)
    move(old, new)
    assert os.stat(new / "bin/sh").st_ino == os.stat(new / "odd/busybox").st_ino
    assert os.lstat(new / "bin/link").st_ino == os.lstat(new / "odd/link").st_ino


def test_only_directories_remain_in_the_source(old: Path, new: Path) -> None:
    create_tree_with_all_file_types(old)
    (old / "read-only").chmod(0o755)
    move(old, new)
    assert list(files(old)) == []


@pytest.mark.parametrize(
    "size",
    [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK + 7],
)
def test_files_of_sizes_around_the_chunk_size_keep_their_contents(
    old: Path, new: Path, size: int
) -> None:
    data = os.urandom(size)
    (old / "file").write_bytes(data)
    move(old, new)
    assert (new / "file").read_bytes() == data


def test_source_file_is_truncated_by_the_move(old: Path, new: Path) -> None:
    """A file that a process has open does not take memory in both file systems."""
    (old / "file").write_bytes(os.urandom(4 * CHUNK))
    held = os.open(old / "file", os.O_RDONLY)  # refers to the source file after its unlink
    move(old, new)
    assert os.fstat(held).st_size == 0
    os.close(held)


def test_excluded_paths_are_not_moved(old: Path, new: Path) -> None:
    (old / "init").write_text("init")
    (old / "usr/lib/modules").mkdir(parents=True)
    (old / "usr/lib/modules/1.ko").write_text("module")
    (old / "usr/init").write_text("another")
    move(old, new, frozenset({("init",), ("usr", "lib", "modules", "1.ko")}))
    assert {path.decode() for path in snapshot(new)} == {
        ".",
        "usr",
        "usr/init",
        "usr/lib",
        "usr/lib/modules",
    }
    assert (old / "init").read_text() == "init"
    assert (old / "usr/lib/modules/1.ko").read_text() == "module"


def test_symbolic_links_are_moved_and_not_followed(old: Path, new: Path, tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/file").write_text("file")
    (old / "to").symlink_to(tmp_path / "outside")
    move(old, new)
    assert (new / "to").is_symlink()
    assert (tmp_path / "outside/file").read_text() == "file"


def test_failed_move_names_the_path_and_keeps_the_source(old: Path, new: Path) -> None:
    (old / "a").mkdir()
    (old / "a/file").write_text("old")
    (new / "a").mkdir()
    with pytest.raises(OSError, match="File exists") as caught:
        move(old, new)
    assert caught.value.filename == "/a"
    assert (old / "a/file").read_text() == "old"


def test_tree_of_200_levels_is_moved(old: Path, new: Path) -> None:
    here = os.open(old, os.O_RDONLY)
    for _ in range(200):
        os.mkdir("d", dir_fd=here)
        below = os.open("d", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(os.open("bottom", os.O_CREAT | os.O_WRONLY, dir_fd=here))
    os.close(here)
    move(old, new)
    assert (new / "/".join("d" * 200) / "bottom").exists()
