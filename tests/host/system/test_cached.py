"""The cache of generated entries: reuse, stale entries, concurrent use, and its limit."""

import binascii
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from initrd.host.system.cached import ENTRIES_KEPT, Cache, CacheEntry, CacheFolder, open_cached
from initrd.host.system.hosterror import HostError

REPOSITORY = os.path.abspath(f"{__file__}/../../../..")


class CacheUnderTest:
    """A cache whose entries are made from one input file; counts how often one is made."""

    def __init__(self, folder: Path) -> None:
        self.cache, self.folder = folder / "cache", folder / "cache/images"
        self.input, self.missing_input = folder / "init", folder / "absent"
        self.input.write_bytes(b"first")
        self.make_count = 0
        self.problem: HostError | None = None  # of the cache that was opened last
        self.clock_offset = 60.0  # seconds that the clock is ahead, so that all files look old

    def make(self) -> CacheEntry:
        self.make_count += 1
        inputs = (str(self.input), str(self.missing_input))
        return CacheEntry(b"image of " + self.input.read_bytes(), inputs)

    def open(self, key: str = "key") -> bytes:
        clock = time.time() + self.clock_offset
        with Cache(str(self.cache)) as cache:
            descriptor = open_cached(CacheFolder(cache, "images"), key, self.make, lambda: clock)
            self.problem = cache.problem
        with open(descriptor, "rb") as file:
            file.seek(0)
            return file.read()

    def stored(self, suffix: str) -> list[str]:
        return [path.name for path in self.folder.glob(f"*{suffix}")]


@pytest.fixture
def cache(tmp_path: Path) -> CacheUnderTest:
    return CacheUnderTest(tmp_path)


def test_an_entry_is_made_once_and_then_comes_from_the_cache(cache: CacheUnderTest) -> None:
    assert [cache.open(), cache.open(), cache.open()] == [b"image of first"] * 3
    assert cache.make_count == 1


def test_the_descriptor_of_a_new_entry_refers_to_its_file_in_the_cache(
    cache: CacheUnderTest,
) -> None:
    cache.open()
    with Cache(str(cache.cache)) as opened:
        folder = CacheFolder(opened, "images")
        descriptor = open_cached(folder, "other", cache.make, lambda: time.time() + 60)
    path = os.readlink(f"/proc/self/fd/{descriptor}")
    os.close(descriptor)
    assert Path(path).parent == cache.folder


def test_two_keys_with_the_same_checksum_have_different_entries(cache: CacheUnderTest) -> None:
    assert binascii.crc32(b"plumless") == binascii.crc32(b"buckeroo")
    cache.open("plumless")
    cache.open("buckeroo")
    assert cache.make_count == 2


def test_a_key_may_contain_bytes_that_are_not_utf8(cache: CacheUnderTest) -> None:
    assert [cache.open("/boot/\udcff"), cache.open("/boot/\udcff")] == [b"image of first"] * 2
    assert cache.make_count == 1


def test_two_keys_have_different_entries(cache: CacheUnderTest) -> None:
    cache.open("one")
    cache.open("two")
    assert cache.make_count == 2


def test_an_entry_is_made_again_when_an_input_changes(cache: CacheUnderTest) -> None:
    cache.open()
    cache.input.write_bytes(b"other")
    assert cache.open() == b"image of other"


def test_an_entry_is_made_again_when_an_input_changes_but_not_its_mtime(
    cache: CacheUnderTest,
) -> None:
    before = cache.input.stat()
    cache.open()
    cache.input.write_bytes(b"FIRST")
    os.utime(cache.input, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert cache.open() == b"image of FIRST"


def test_an_entry_is_made_again_when_a_missing_input_appears(cache: CacheUnderTest) -> None:
    cache.open()
    cache.missing_input.write_text("now here")
    cache.open()
    assert cache.make_count == 2


def test_an_entry_is_not_cached_when_an_input_has_just_been_written(cache: CacheUnderTest) -> None:
    cache.clock_offset = 0
    assert cache.open() == cache.open() == b"image of first"
    assert cache.make_count == 2
    assert not cache.folder.exists()


@pytest.mark.parametrize(
    "damage", ["", "end", "key\0x\0y\0z\0end", "\0" * 5, "\0" * 100_000, "key\0\0\0\0\0end"]
)
def test_a_damaged_cache_entry_is_ignored(cache: CacheUnderTest, damage: str) -> None:
    cache.open()
    for description in cache.folder.glob("*.entry"):
        description.write_text(damage)
    assert cache.open() == b"image of first"


def test_an_entry_is_made_again_when_its_file_was_removed(cache: CacheUnderTest) -> None:
    cache.open()
    for image in cache.folder.glob("*.img"):
        image.unlink()
    assert cache.open() == b"image of first"
    assert cache.make_count == 2


def test_an_entry_is_made_in_memory_when_the_cache_cannot_be_written(cache: CacheUnderTest) -> None:
    cache.cache.write_text("a file where the directory should be")
    assert cache.open() == b"image of first"


def test_the_cache_holds_a_limited_number_of_entries(cache: CacheUnderTest) -> None:
    for number in range(ENTRIES_KEPT + 5):
        cache.input.write_text(f"{number}")
        cache.open(f"{number}")
    assert len(cache.stored(".img")) == len(cache.stored(".entry")) == ENTRIES_KEPT


def test_the_entries_that_were_used_last_are_kept(cache: CacheUnderTest) -> None:
    cache.open("favourite")
    for number in range(ENTRIES_KEPT + 5):
        cache.open(f"{number}")
        cache.open("favourite")
    make_count = cache.make_count
    cache.open("favourite")
    assert cache.make_count == make_count


def test_old_temporary_files_in_the_cache_are_removed(cache: CacheUnderTest) -> None:
    cache.folder.mkdir(0o700, parents=True)
    old, new, foreign = ".0123456789abcdef.tmp", ".fedcba9876543210.tmp", "old.tmp"
    for name, age in ((old, 7200), (new, 0), (foreign, 7200)):
        (cache.folder / name).write_text("")
        os.utime(cache.folder / name, (time.time() - age,) * 2)
    cache.open()
    assert sorted(cache.stored(".tmp")) == sorted([new, foreign])


def test_processes_that_use_the_cache_at_once_read_complete_entries(cache: CacheUnderTest) -> None:
    script = (
        "import os, sys, time; sys.path.insert(0, sys.argv[1])\n"
        "from initrd.host.system.cached import Cache, CacheEntry, CacheFolder, open_cached\n"
        "folder = CacheFolder(Cache(sys.argv[2]), 'images')\n"
        "for n in range(200):\n"
        "  key = str(n % 12)\n"
        "  make = lambda: CacheEntry(key.encode() * 100000, (sys.argv[3],))\n"
        "  fd = open_cached(folder, key, make, lambda: time.time() + 60)\n"
        "  assert os.pread(fd, 10**7, 0) == key.encode() * 100000\n"
        "  os.close(fd)\n"
    )
    command = [sys.executable, "-c", script, REPOSITORY, str(cache.cache), str(cache.input)]
    processes = [subprocess.Popen(command) for _ in range(4)]
    assert [process.wait() for process in processes] == [0] * 4
