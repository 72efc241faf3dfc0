"""The cache where other users could change it, and entries that are not as they were written."""

import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from initrd.host.system.cached import Cache
from initrd.host.system.safe_path import UnsafeFolder
from tests.host.system.conftest import ROOT, STRANGER, Owners
from tests.host.system.test_cached import CacheUnderTest

LEVELS = ("home", "home/cache", "home/cache/images")
MADE = b"image of first"
PLANTED = b"image of an attacker"


@pytest.fixture
def cache(tmp_path: Path) -> CacheUnderTest:
    """A cache with one entry, in `home/cache`."""
    (tmp_path / "home").mkdir(0o700)
    cache = CacheUnderTest(tmp_path / "home")
    (tmp_path / "home/init").write_bytes(b"first")
    assert cache.open() == MADE
    return cache


def plant(cache: CacheUnderTest, target: Path) -> None:
    """Copy the cache to `target`, with an image of somebody else and with many old files."""
    shutil.copytree(cache.cache, target)
    images = target / "images"
    (image,) = images.glob("*.img")
    image.write_bytes(PLANTED)
    os.utime(image, ns=(0, 946_684_800 * 10**9))
    for number in range(20):
        for name in (f"{number:032x}.img", f"{number:08x}.entry", f".{number:016x}.tmp"):
            (images / name).write_bytes(b"")
            os.utime(images / name, (1, 1))


def content(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() if path.is_file() else b"" for path in folder.rglob("*")}


def check_unsafe(cache: CacheUnderTest, why: str) -> None:
    """Check that an entry is made, in memory, and that the reason is known."""
    cache.make_count = 0
    assert (cache.open(), cache.make_count) == (MADE, 1)
    assert isinstance(cache.problem, UnsafeFolder)
    assert why in str(cache.problem)


# --- directories ---------------------------------------------------------------------------------


@pytest.mark.parametrize("level", ["home/cache", "home/cache/images"])
def test_link_in_place_of_a_directory_is_not_followed(
    cache: CacheUnderTest, tmp_path: Path, level: str
) -> None:
    target = tmp_path / "target"
    plant(cache, target)
    before = content(target)
    shutil.rmtree(tmp_path / level)
    (tmp_path / level).symlink_to(target / "images" if level.endswith("images") else target)
    check_unsafe(cache, f"{tmp_path / level} is a symbolic link")
    assert content(target) == before


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("mode", [0o770, 0o702, 0o777], ids=oct)
def test_directory_that_others_can_write_to_is_not_used(
    cache: CacheUnderTest, tmp_path: Path, level: str, mode: int
) -> None:
    before = content(tmp_path)
    (tmp_path / level).chmod(mode)
    check_unsafe(cache, str(tmp_path / level))
    assert content(tmp_path) == before


@pytest.mark.parametrize("level", LEVELS)
def test_directory_of_another_user_is_not_used(
    cache: CacheUnderTest, tmp_path: Path, owners: Owners, level: str
) -> None:
    before = content(tmp_path)
    owners.give(tmp_path / level, STRANGER)
    check_unsafe(cache, "belongs to user 4242")
    assert content(tmp_path) == before


@pytest.mark.parametrize("level", LEVELS)
def test_root_with_the_home_of_another_user_uses_no_cache(
    cache: CacheUnderTest, tmp_path: Path, owners: Owners, level: str
) -> None:
    before = content(tmp_path)
    owners.user = ROOT
    owners.give(tmp_path / level, STRANGER)
    check_unsafe(cache, "belongs to user 4242")
    assert content(tmp_path) == before


@pytest.mark.parametrize("level", ["home/cache", "home/cache/images"])
@pytest.mark.parametrize("mode", [0o755, 0o750, 0o711], ids=oct)
def test_directory_that_others_can_read_is_used(
    cache: CacheUnderTest, tmp_path: Path, level: str, mode: int
) -> None:
    # Versions of chrootvm without templates made the directories by the umask.
    (tmp_path / level).chmod(mode)
    cache.make_count = 0
    assert (cache.open(), cache.make_count, cache.problem) == (MADE, 0, None)


def test_cache_in_a_directory_for_all_users_is_used(tmp_path: Path) -> None:
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared").chmod(0o1777)
    with Cache(f"{tmp_path}/shared/xdg/initrd") as cache:
        assert cache.problem is None
    assert (tmp_path / "shared/xdg/initrd").stat().st_mode & 0o777 == 0o700


def test_own_link_above_the_cache_is_followed(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "xdg").symlink_to("disk")
    with Cache(f"{tmp_path}/xdg/initrd") as cache:
        assert cache.problem is None
    assert (tmp_path / "disk/initrd").is_dir()


def test_read_only_cache_is_a_problem_and_is_used(
    cache: CacheUnderTest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "access", lambda *_, **__: False)
    cache.make_count = 0
    assert (cache.open(), cache.make_count) == (MADE, 0)
    assert cache.problem is not None
    assert not isinstance(cache.problem, UnsafeFolder)


def test_folders_are_checked_without_an_entry(cache: CacheUnderTest, tmp_path: Path) -> None:
    with Cache(str(cache.cache)) as opened:
        opened.check_folders()
        assert opened.problem is None
        (cache.cache / "kernels").symlink_to(tmp_path)
        (cache.cache / "virtiofsd").symlink_to(tmp_path)
        opened.check_folders()
        assert opened.problem is not None
        assert opened.problem.why == f"{cache.cache}/kernels is a symbolic link"


# --- files ---------------------------------------------------------------------------------------


def rewrite(path: Path, new: bytes) -> None:
    """Write to a file; its time of modification stays."""
    before = path.stat()
    path.write_bytes(new)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def to_link(path: Path) -> None:
    path.rename(path.with_name("moved"))
    path.symlink_to("moved")


def to_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


DAMAGES: dict[str, Callable[[Path], object]] = {
    "truncated": lambda path: os.truncate(path, 5),
    "truncated at the time": lambda path: rewrite(path, path.read_bytes()[:-1]),
    "empty": lambda path: os.truncate(path, 0),
    "longer": lambda path: path.write_bytes(path.read_bytes() + b"\0"),
    "other content": lambda path: path.write_bytes(b"image of s1xth"),
    "zeros": lambda path: rewrite(path, bytes(path.stat().st_size)),
    "link": to_link,
    "pipe": to_pipe,
    "hard link": lambda path: os.link(path, path.with_name("second")),
    "readable": lambda path: path.chmod(0o644),
    "gone": lambda path: path.unlink(),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
@pytest.mark.parametrize("suffix", [".img", ".entry"])
def test_damaged_file_is_not_used_and_is_made_again(
    cache: CacheUnderTest, suffix: str, damage: Callable[[Path], object]
) -> None:
    (path,) = cache.folder.glob(f"*{suffix}")
    damage(path)
    cache.make_count = 0
    assert [cache.open(), cache.open()] == [MADE, MADE]
    assert cache.make_count == 1
    assert cache.problem is None


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: rewrite(path, path.read_bytes()[:-1]),
        lambda path: path.write_bytes(
            path.read_bytes().replace(bytes(100_001), bytes(100_000) + b"x")
        ),
    ],
    ids=["shorter", "changed in the middle"],
)
def test_damage_that_leaves_the_ends_of_a_file_is_noticed(
    cache: CacheUnderTest, damage: Callable[[Path], object]
) -> None:
    cache.input.write_bytes(bytes(200_000))
    made = cache.open()
    (path,) = (path for path in cache.folder.glob("*.img") if path.stat().st_size == len(made))
    damage(path)
    cache.make_count = 0
    assert (cache.open() == made, cache.make_count) == (True, 1)


@pytest.mark.parametrize("where", ["{}/evil", "../../../evil", "evil", "x/../evil.img"])
def test_entry_that_names_a_file_elsewhere_is_not_used(
    cache: CacheUnderTest, tmp_path: Path, where: str
) -> None:
    for folder in (tmp_path, cache.folder):
        (folder / "evil").write_bytes(MADE)
        (folder / "evil").chmod(0o600)
        os.utime(folder / "evil", ns=(0, 946_684_800 * 10**9))
    (entry,) = cache.folder.glob("*.entry")
    key, _, *rest = entry.read_bytes().split(b"\0")
    entry.write_bytes(b"\0".join((key, where.format(tmp_path).encode(), *rest)))
    cache.make_count = 0
    assert (cache.open(), cache.make_count) == (MADE, 1)


def test_only_own_names_are_removed_by_age(cache: CacheUnderTest) -> None:
    names = [f"{number}.img" for number in range(20)] + ["a.json", "b.entry", "old.tmp", "notes"]
    for name in names:
        (cache.folder / name).touch()
        os.utime(cache.folder / name, (1, 1))
    for number in range(20):
        cache.input.write_text(f"{number}")
        cache.open(f"{number}")
    assert set(names) < set(os.listdir(cache.folder))


def test_file_is_on_the_disk_before_its_description(
    cache: CacheUnderTest, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[tuple[int, list[str]]] = []

    def fsync(descriptor: int) -> None:
        synced.append((os.fstat(descriptor).st_size, sorted(cache.stored("[gy]"))))

    shutil.rmtree(cache.cache)
    monkeypatch.setattr(os, "fsync", fsync)
    cache.open()
    (image,), (entry,) = cache.stored(".img"), cache.stored(".entry")
    size = (cache.folder / entry).stat().st_size
    assert synced == [(len(MADE), []), (size, [image])]


def test_entries_of_one_content_do_not_replace_each_other(cache: CacheUnderTest) -> None:
    cache.open("other key")
    cache.make_count = 0
    for _ in range(2):
        cache.open()
        cache.open("other key")
    assert cache.make_count == 0
    assert len(cache.stored(".img")) == 1


def test_use_of_an_entry_is_noted_in_its_files(cache: CacheUnderTest) -> None:
    paths = [*cache.folder.glob("*.img"), *cache.folder.glob("*.entry")]
    for path in paths:
        os.utime(path, ns=(0, path.stat().st_mtime_ns))
    began = time.time() - 10
    cache.open()
    assert all(path.stat().st_atime > began for path in paths)
