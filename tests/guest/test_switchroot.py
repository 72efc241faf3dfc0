"""Freeing of the initramfs: the contents are deleted, and no other file."""

import errno
import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from initrd.guest.failure import BootError
from initrd.guest.log import Log
from initrd.guest.rmtree import remove_contents
from initrd.guest.switchroot import free_initramfs
from tests.fake_kernel import FakeKernel


@pytest.fixture
def old_root(tmp_path: Path) -> Path:
    """A directory like an initramfs; the file outside/file must survive its deletion."""
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/file").write_text("file")
    root = tmp_path / "old_root"
    (root / "usr/lib/modules").mkdir(parents=True)
    (root / "usr/lib/modules/a.ko").write_text("module")
    (root / "init").write_text("init")
    (root / "dev").mkdir()
    (root / "dev/console").write_text("")
    return root


@pytest.fixture
def old_root_fd(old_root: Path) -> Iterator[int]:
    fd = os.open(old_root, os.O_RDONLY)
    yield fd
    os.close(fd)


def test_all_files_but_dev_console_are_deleted(old_root: Path, old_root_fd: int) -> None:
    remove_contents(old_root_fd)
    assert [str(path.relative_to(old_root)) for path in sorted(old_root.rglob("*"))] == [
        "dev",
        "dev/console",
    ]


@pytest.mark.parametrize("kind", ["file", "directory", "root", "dangling", "loop"])
def test_symbolic_links_are_deleted_and_not_followed(
    old_root: Path, old_root_fd: int, tmp_path: Path, kind: str
) -> None:
    target = {
        "file": tmp_path / "outside/file",
        "directory": tmp_path / "outside",
        "root": Path("/"),
        "dangling": tmp_path / "nothing",
        "loop": old_root,
    }[kind]
    (old_root / "usr/link").symlink_to(target)
    remove_contents(old_root_fd)
    assert not (old_root / "usr").exists()
    assert (tmp_path / "outside/file").read_text() == "file"


def test_file_with_another_hard_link_outside_survives(
    old_root: Path, old_root_fd: int, tmp_path: Path
) -> None:
    os.link(tmp_path / "outside/file", old_root / "file")
    remove_contents(old_root_fd)
    assert (tmp_path / "outside/file").read_text() == "file"


def test_files_with_unusual_names_and_modes_are_deleted(old_root: Path, old_root_fd: int) -> None:
    for name in (b"a b", b"\xff\xfe", b"-rf", b"new\nline", "é".encode()):
        os.mkdir(os.path.join(os.fsencode(old_root), name), 0o700)
        with open(os.path.join(os.fsencode(old_root), name, name), "wb"):
            pass
    os.mkfifo(old_root / "fifo")
    (old_root / "usr/lib").chmod(stat.S_IRWXU)
    remove_contents(old_root_fd)
    assert os.listdir(old_root) == ["dev"]


def test_tree_of_200_levels_is_deleted(old_root: Path, old_root_fd: int) -> None:
    here = os.open(old_root, os.O_RDONLY)
    for _ in range(200):
        os.mkdir("d", dir_fd=here)
        below = os.open("d", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(here)
    remove_contents(old_root_fd)
    assert os.listdir(old_root) == ["dev"]


def test_other_file_systems_are_not_entered(old_root: Path, tmp_path: Path) -> None:
    """A tmpfs in the old root survives; the test mounts it in a mount namespace of its own."""
    script = """
import os, sys
from initrd.guest.rmtree import remove_contents
remove_contents(os.open(sys.argv[1], os.O_RDONLY))
print(sorted(os.listdir(sys.argv[1])), os.listdir(sys.argv[1] + "/mnt"))
"""
    (old_root / "mnt").mkdir()
    commands = 'mount -t tmpfs none "$1/mnt" && touch "$1/mnt/kept" && exec "$2" -c "$3" "$1"'
    result = subprocess.run(
        [
            "unshare",
            "-m" if os.geteuid() == 0 else "-Urm",
            "sh",
            "-ec",
            commands,
            "sh",
            old_root,
            sys.executable,
            script,
        ],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parents[2],
    )
    assert result.stdout == "['dev', 'mnt'] ['kept']\n", result.stderr


def test_old_root_on_ext4_is_not_emptied() -> None:
    kernel = FakeKernel()
    kernel.filesystem = 0xEF53  # ext4
    with pytest.raises(BootError, match="nothing deleted"):
        free_initramfs(7, kernel, Log(kernel))  # type: ignore[arg-type]
    assert kernel.calls == []


def test_file_of_the_initramfs_that_cannot_be_deleted_is_named() -> None:
    class OldKernel(FakeKernel):
        def empty(self, fd: int) -> None:
            raise PermissionError(errno.EPERM, os.strerror(errno.EPERM), "locked")

    kernel = OldKernel()
    with pytest.raises(BootError, match="cannot free the initramfs: locked: Operation not perm"):
        free_initramfs(7, kernel, Log(kernel))  # type: ignore[arg-type]


def test_file_system_of_the_current_root_is_not_emptied() -> None:
    kernel = FakeKernel()  # all descriptors are on a ramfs
    kernel.devices = {1: 5, 7: 5}  # `/` (descriptor 1) and the old root are one device
    with pytest.raises(BootError, match="nothing deleted"):
        free_initramfs(7, kernel, Log(kernel))  # type: ignore[arg-type]
    assert kernel.calls == []


def test_deletion_leaves_no_descriptor(tmp_path: Path) -> None:
    (tmp_path / "a/b/c").mkdir(parents=True)
    directory = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    before = os.listdir("/proc/self/fd")
    remove_contents(directory)
    assert os.listdir("/proc/self/fd") == before
    assert os.listdir(tmp_path) == []
    os.close(directory)
