"""Freeing the initramfs: the most dangerous step, tried hardest."""

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
def old(tmp_path: Path) -> Path:
    """A directory that looks like an initramfs, with a treasure outside of it."""
    (tmp_path / "treasure").mkdir()
    (tmp_path / "treasure/gold").write_text("gold")
    root = tmp_path / "old"
    (root / "usr/lib/modules").mkdir(parents=True)
    (root / "usr/lib/modules/a.ko").write_text("module")
    (root / "init").write_text("init")
    (root / "dev").mkdir()
    (root / "dev/console").write_text("")
    return root


@pytest.fixture
def fd(old: Path) -> Iterator[int]:
    fd = os.open(old, os.O_RDONLY)
    yield fd
    os.close(fd)


def test_everything_goes_but_the_console(old: Path, fd: int) -> None:
    remove_contents(fd)
    assert [str(path.relative_to(old)) for path in sorted(old.rglob("*"))] == ["dev", "dev/console"]


@pytest.mark.parametrize("kind", ["file", "directory", "root", "dangling", "loop"])
def test_links_are_removed_and_not_followed(old: Path, fd: int, tmp_path: Path, kind: str) -> None:
    target = {
        "file": tmp_path / "treasure/gold",
        "directory": tmp_path / "treasure",
        "root": Path("/"),
        "dangling": tmp_path / "nothing",
        "loop": old,
    }[kind]
    (old / "usr/link").symlink_to(target)
    remove_contents(fd)
    assert not (old / "usr").exists()
    assert (tmp_path / "treasure/gold").read_text() == "gold"


def test_a_hard_link_elsewhere_survives(old: Path, fd: int, tmp_path: Path) -> None:
    os.link(tmp_path / "treasure/gold", old / "gold")
    remove_contents(fd)
    assert (tmp_path / "treasure/gold").read_text() == "gold"


def test_odd_names_and_modes_are_no_obstacle(old: Path, fd: int) -> None:
    for name in (b"a b", b"\xff\xfe", b"-rf", b"new\nline", "é".encode()):
        os.mkdir(os.path.join(os.fsencode(old), name), 0o700)
        with open(os.path.join(os.fsencode(old), name, name), "wb"):
            pass
    os.mkfifo(old / "fifo")
    (old / "usr/lib").chmod(stat.S_IRWXU)
    remove_contents(fd)
    assert os.listdir(old) == ["dev"]


def test_a_deep_tree_is_no_obstacle(old: Path, fd: int) -> None:
    here = os.open(old, os.O_RDONLY)
    for _ in range(200):
        os.mkdir("d", dir_fd=here)
        deeper = os.open("d", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = deeper
    os.close(here)
    remove_contents(fd)
    assert os.listdir(old) == ["dev"]


def test_another_file_system_is_never_entered(old: Path, tmp_path: Path) -> None:
    """In a mount namespace of its own: a bind mount and a tmpfs inside the old root survive."""
    script = """
import os, sys
from initrd.guest.rmtree import remove_contents
remove_contents(os.open(sys.argv[1], os.O_RDONLY))
print(sorted(os.listdir(sys.argv[1])), os.listdir(sys.argv[1] + "/mnt"))
"""
    (old / "mnt").mkdir()
    commands = 'mount -t tmpfs none "$1/mnt" && touch "$1/mnt/kept" && exec "$2" -c "$3" "$1"'
    result = subprocess.run(
        [
            "unshare",
            "-m" if os.geteuid() == 0 else "-Urm",
            "sh",
            "-ec",
            commands,
            "sh",
            old,
            sys.executable,
            script,
        ],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parents[2],
    )
    assert result.stdout == "['dev', 'mnt'] ['kept']\n", result.stderr


def test_only_a_ram_file_system_is_emptied() -> None:
    kernel = FakeKernel()
    kernel.filesystem = 0xEF53  # ext4
    with pytest.raises(BootError, match="nothing deleted"):
        free_initramfs(7, kernel, Log(kernel))  # type: ignore[arg-type]
    assert kernel.calls == []


def test_the_file_system_that_is_the_root_now_is_never_emptied() -> None:
    kernel = FakeKernel()  # every descriptor is on a ramfs
    kernel.devices = {1: 5, 7: 5}
    with pytest.raises(BootError, match="nothing deleted"):
        free_initramfs(7, kernel, Log(kernel))  # type: ignore[arg-type]
    assert kernel.calls == []
