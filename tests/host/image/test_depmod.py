"""The module directory that is made from a build tree, with a script in the place of depmod."""

import os
from pathlib import Path

import pytest

from initrd.host.image import depmod
from initrd.host.image.buildtree import BuildTree
from initrd.host.image.depmod import ENTRIES_KEPT, open_staged, remove_staged
from initrd.host.system.hosterror import HostError
from initrd.host.system.private import PrivateFolder
from initrd.host.system.safe_path import UnsafeFolder
from tests.host.conftest import write_program
from tests.host.image.module_trees import elf_module, write, write_build_tree

MODULES = {"fs/fuse/fuse": ("depends=",), "top": ("depends=",), "drivers/gone": ()}
# It writes what it finds, and notes that it has run.
SCRIPT = """
test "$1" = -b && cd "$2/lib/modules/$3" && echo run >>{log} && umask 077
cat kernel/fs/fuse/fuse.ko kernel/top.ko >modules.dep.bin && echo {text} >modules.dep
"""


@pytest.fixture
def tree(tmp_path: Path) -> BuildTree:
    path = write_build_tree(tmp_path / "a tree", MODULES, builtin=("fs/xfs.ko",), suffix="o")
    os.unlink(f"{path}/drivers/gone.ko")
    return BuildTree(path)


def program(folder: Path, text: str = "dep") -> str:
    return write_program(folder / "depmod", SCRIPT.format(log=folder / "log", text=text))


def runs(folder: Path) -> int:
    return len((folder / "log").read_text().splitlines())


def test_entry_has_links_into_the_build_tree_and_depmods_files(
    tree: BuildTree, tmp_path: Path
) -> None:
    directory = Path(open_staged(tree, "6.1", program(tmp_path), f"{tmp_path}/cache"))
    assert directory.name == "6.1"
    assert sorted(os.listdir(directory)) == [
        "build",
        "kernel",
        "modules.builtin",
        "modules.builtin.modinfo",
        "modules.dep",
        "modules.dep.bin",
        "modules.order",
    ]
    links = {
        path: os.readlink(directory / "kernel" / path) for path in ("fs/fuse/fuse.ko", "top.ko")
    }
    assert links == {
        "fs/fuse/fuse.ko": "../../../build/fs/fuse/fuse.ko",
        "top.ko": "../build/top.ko",
    }
    assert os.listdir(directory / "build") == []
    assert not (directory / "build").is_symlink()
    assert (directory / "modules.order").read_text() == "kernel/fs/fuse/fuse.ko\nkernel/top.ko\n"
    assert (directory / "modules.builtin").read_text() == "kernel/fs/xfs.ko\n"
    assert (directory / "modules.dep.bin").read_bytes() == elf_module("depends=") * 2


def test_users_of_the_guest_can_read_the_entry_whatever_the_umask_is(
    tree: BuildTree, tmp_path: Path
) -> None:
    before = os.umask(0o077)
    try:
        directory = Path(open_staged(tree, "6.1", program(tmp_path), f"{tmp_path}/cache"))
    finally:
        os.umask(before)
    paths = (directory, *directory.rglob("*"))
    modes = {path.stat().st_mode & 0o777 for path in paths if not path.is_symlink()}
    assert modes == {0o755, 0o644}
    assert (tmp_path / "cache/modules").stat().st_mode & 0o777 == 0o700


def test_entry_is_used_until_a_module_changes(tree: BuildTree, tmp_path: Path) -> None:
    first, again = (
        open_staged(tree, "6.1", program(tmp_path), f"{tmp_path}/cache") for _ in range(2)
    )
    assert (first, runs(tmp_path)) == (again, 1)
    write(f"{tree.directory}/top.ko", elf_module("depends=fuse"))
    second = open_staged(BuildTree(tree.directory), "6.1", program(tmp_path), f"{tmp_path}/cache")
    assert (second != first, runs(tmp_path)) == (True, 2)
    other = open_staged(tree, "6.2", program(tmp_path), f"{tmp_path}/cache")
    assert (os.path.basename(other), runs(tmp_path)) == ("6.2", 3)


def test_module_of_the_same_size_and_time_is_noticed(tree: BuildTree, tmp_path: Path) -> None:
    path = f"{tree.directory}/top.ko"
    before = os.stat(path)
    open_staged(tree, "6.1", program(tmp_path), f"{tmp_path}/cache")
    write(path, elf_module("depends!"))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    open_staged(tree, "6.1", program(tmp_path), f"{tmp_path}/cache")
    assert runs(tmp_path) == 2


def test_the_build_tree_is_not_changed(tree: BuildTree, tmp_path: Path) -> None:
    def list_tree() -> list[tuple[str, int]]:
        return [(str(path), path.stat().st_mtime_ns) for path in Path(tree.directory).rglob("*")]

    before = list_tree()
    open_staged(tree, "6.1", program(tmp_path), f"{tmp_path}/cache")
    assert list_tree() == before


@pytest.mark.parametrize(
    ("script", "why"),
    [
        pytest.param("echo first >&2; echo no room >&2; exit 1", "exit status 1: no room", id="1"),
        pytest.param("exit 0", "exit status 0$", id="no files"),
    ],
)
def test_failure_of_depmod_is_explained_and_leaves_nothing(
    script: str, why: str, tree: BuildTree, tmp_path: Path
) -> None:
    failing = write_program(tmp_path / "failing", script)
    with pytest.raises(HostError, match=f"cannot run {failing} .*: {why}"):
        open_staged(tree, "6.1", failing, f"{tmp_path}/cache")
    assert os.listdir(tmp_path / "cache/modules") == []


@pytest.mark.parametrize("release", ["", ".", "..", "../6.1", "a/b"])
def test_release_that_is_no_name_is_refused(release: str, tree: BuildTree, tmp_path: Path) -> None:
    with pytest.raises(HostError, match="cannot use the modules in"):
        open_staged(tree, release, program(tmp_path), f"{tmp_path}/cache")
    assert not (tmp_path / "cache").exists()


def test_file_out_of_the_tree_is_not_copied(tree: BuildTree, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("secret")
    os.unlink(f"{tree.directory}/modules.builtin")
    os.symlink("../secret", f"{tree.directory}/modules.builtin")
    with pytest.raises(HostError, match="it leads out of"):
        open_staged(tree, "6.1", program(tmp_path), f"{tmp_path}/cache")
    assert os.listdir(tmp_path / "cache/modules") == []


@pytest.mark.parametrize("name", ["modules.builtin", "modules.builtin.modinfo"])
def test_huge_list_is_not_copied(name: str, tree: BuildTree, tmp_path: Path) -> None:
    os.truncate(f"{tree.directory}/{name}", 1 << 36)
    with pytest.raises(HostError, match=f"{name}: it has more than 16 MiB"):
        open_staged(tree, "6.1", program(tmp_path), f"{tmp_path}/cache")
    assert os.listdir(tmp_path / "cache/modules") == []


def test_directory_in_the_place_of_a_list_is_named(tree: BuildTree, tmp_path: Path) -> None:
    os.unlink(f"{tree.directory}/modules.builtin")
    os.mkdir(f"{tree.directory}/modules.builtin")
    with pytest.raises(HostError, match=f"^cannot read {tree.directory}/modules.builtin: Is a dir"):
        open_staged(tree, "6.1", program(tmp_path), f"{tmp_path}/cache")


def test_memory_of_depmod_is_limited(tree: BuildTree, tmp_path: Path) -> None:
    limited = write_program(tmp_path / "limited", "ulimit -v >&2; exit 1")
    with pytest.raises(HostError, match=f"exit status 1: {2 << 20}$"):  # in KiB
        open_staged(tree, "6.1", limited, f"{tmp_path}/cache")


def test_directory_that_others_can_write_to_is_not_used(tree: BuildTree, tmp_path: Path) -> None:
    (tmp_path / "cache/modules").mkdir(parents=True)
    (tmp_path / "cache/modules").chmod(0o777)
    with pytest.raises(HostError, match="cannot use the directory"):
        open_staged(tree, "6.1", program(tmp_path), f"{tmp_path}/cache")


def test_cache_that_cannot_be_written_is_an_error(tree: BuildTree, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("")
    with pytest.raises(HostError, match="cannot"):
        open_staged(tree, "6.1", program(tmp_path), f"{tmp_path}/cache")


def test_another_process_may_make_the_same_entry(
    tree: BuildTree, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = depmod._run_depmod

    def make_twice(*arguments: str) -> None:
        monkeypatch.setattr(depmod, "_run_depmod", run)
        open_staged(tree, "6.1", program(tmp_path), f"{tmp_path}/cache")
        run(*arguments)

    monkeypatch.setattr(depmod, "_run_depmod", make_twice)
    directory = open_staged(tree, "6.1", program(tmp_path), f"{tmp_path}/cache")
    assert os.path.exists(f"{directory}/modules.dep.bin")
    assert len(os.listdir(tmp_path / "cache/modules")) == 1
    assert runs(tmp_path) == 2


def test_the_entries_used_last_are_kept(tree: BuildTree, tmp_path: Path) -> None:
    releases = [f"6.{number}" for number in range(ENTRIES_KEPT + 2)]
    made = {}
    for number, release in enumerate((*releases, releases[0])):
        made[release] = open_staged(tree, release, program(tmp_path), f"{tmp_path}/cache")
        entry = made[release].removesuffix(f"/usr/lib/modules/{release}")
        os.utime(entry, (number + 1, number + 1))
        if number == ENTRIES_KEPT - 1:  # the first one is used again before it is the oldest
            os.utime(made[releases[0]].removesuffix("/usr/lib/modules/6.0"), (100, 100))
    kept = [release for release in releases if os.path.exists(made[release])]
    assert kept == [releases[0], *releases[3:]]


def test_temporary_directories_of_crashes_are_removed(tree: BuildTree, tmp_path: Path) -> None:
    folder = tmp_path / "cache/modules"
    folder.mkdir(0o700, parents=True)
    for name, age in ((".0123456789abcdef.tmp", 7200), (".fedcba9876543210.tmp", 60)):
        (folder / name / "deep").mkdir(parents=True)
        now = folder.stat().st_mtime
        os.utime(folder / name, (now - age, now - age))
    (folder / "Notes of a user").mkdir()
    open_staged(tree, "6.1", program(tmp_path), f"{tmp_path}/cache")
    names = set(os.listdir(folder))
    assert {".fedcba9876543210.tmp", "Notes of a user"} < names
    assert ".0123456789abcdef.tmp" not in names


def test_removal_leaves_the_build_tree_and_other_directories(
    tree: BuildTree, tmp_path: Path
) -> None:
    open_staged(tree, "6.1", program(tmp_path), f"{tmp_path}/cache")
    folder = tmp_path / "cache/modules"
    (folder / "Notes of a user").mkdir()
    (folder / "0123").symlink_to(tree.directory)
    with PrivateFolder.open(str(folder), create=False) as opened:
        remove_staged(opened)
    assert sorted(os.listdir(folder)) == ["0123", "Notes of a user"]
    assert os.path.exists(f"{tree.directory}/top.ko")


@pytest.mark.parametrize("level", ["cache", "cache/modules", "entry"])
def test_link_in_place_of_a_directory_is_not_followed(
    tree: BuildTree, tmp_path: Path, level: str
) -> None:
    made = Path(open_staged(tree, "6.1", program(tmp_path), f"{tmp_path}/cache"))
    path = made.parents[3] if level == "entry" else tmp_path / level
    path.rename(tmp_path / "moved")
    path.symlink_to(tmp_path / "moved")
    with pytest.raises(UnsafeFolder, match="is a symbolic link"):
        open_staged(tree, "6.1", program(tmp_path), f"{tmp_path}/cache")
    assert runs(tmp_path) == 1


def test_directories_of_the_user_are_not_removed(tree: BuildTree, tmp_path: Path) -> None:
    folder = tmp_path / "cache/modules"
    names = [f"notes-{number}" for number in range(ENTRIES_KEPT + 2)]
    for name in names:
        (folder / name).mkdir(0o700, parents=True)
        os.utime(folder / name, (1, 1))
    folder.chmod(0o700)
    folder.parent.chmod(0o700)
    open_staged(tree, "6.1", program(tmp_path), f"{tmp_path}/cache")
    assert set(names) < set(os.listdir(folder))
