"""Images of the cache: found again, never stale, safe with many at once, bounded."""

import binascii
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from initrd.host.system.files import KEPT, CacheEntry, open_cached

TOP = os.path.abspath(f"{__file__}/../../../..")


class Workshop:
    """Makes images of one file, and counts how often it has to."""

    def __init__(self, folder: Path) -> None:
        self.cache = folder / "cache"
        self.input, self.absent = folder / "init", folder / "absent"
        self.input.write_bytes(b"first")
        self.made = 0
        self.later = 60.0  # seconds that the clock is ahead: files look as if they were old

    def make(self) -> CacheEntry:
        self.made += 1
        inputs = (str(self.input), str(self.absent))
        return CacheEntry(b"image of " + self.input.read_bytes(), inputs)

    def open(self, key: str = "key") -> bytes:
        clock = time.time() + self.later
        with open(open_cached(str(self.cache), key, self.make, lambda: clock), "rb") as file:
            file.seek(0)
            return file.read()

    def kept(self, suffix: str) -> list[str]:
        return [path.name for path in self.cache.glob(f"*{suffix}")]


@pytest.fixture
def workshop(tmp_path: Path) -> Workshop:
    return Workshop(tmp_path)


def test_an_image_is_made_once(workshop: Workshop) -> None:
    assert [workshop.open(), workshop.open(), workshop.open()] == [b"image of first"] * 3
    assert workshop.made == 1


def test_an_image_that_is_kept_is_used_from_its_file_at_once(workshop: Workshop) -> None:
    workshop.open()
    descriptor = open_cached(str(workshop.cache), "other", workshop.make, lambda: time.time() + 60)
    path = os.readlink(f"/proc/self/fd/{descriptor}")
    os.close(descriptor)
    assert Path(path).parent == workshop.cache


def test_keys_with_one_checksum_are_told_apart(workshop: Workshop) -> None:
    assert binascii.crc32(b"plumless") == binascii.crc32(b"buckeroo")
    workshop.open("plumless")
    workshop.open("buckeroo")
    assert workshop.made == 2


def test_a_path_that_is_no_utf8_is_a_key(workshop: Workshop) -> None:
    assert [workshop.open("/boot/\udcff"), workshop.open("/boot/\udcff")] == [b"image of first"] * 2
    assert workshop.made == 1


def test_another_key_is_another_image(workshop: Workshop) -> None:
    workshop.open("one")
    workshop.open("two")
    assert workshop.made == 2


def test_a_changed_input_makes_it_anew(workshop: Workshop) -> None:
    workshop.open()
    workshop.input.write_bytes(b"other")
    assert workshop.open() == b"image of other"


def test_a_change_that_hides_its_time_is_noticed(workshop: Workshop) -> None:
    before = workshop.input.stat()
    workshop.open()
    workshop.input.write_bytes(b"FIRST")
    os.utime(workshop.input, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert workshop.open() == b"image of FIRST"


def test_an_input_that_appears_makes_it_anew(workshop: Workshop) -> None:
    workshop.open()
    workshop.absent.write_text("now here")
    workshop.open()
    assert workshop.made == 2


def test_what_has_just_been_written_may_still_change_unseen(workshop: Workshop) -> None:
    workshop.later = 0
    assert workshop.open() == workshop.open() == b"image of first"
    assert workshop.made == 2
    assert not workshop.cache.exists()


@pytest.mark.parametrize(
    "damage", ["", "{", '{"inputs": {}}', "[]", '{"key": "key", "inputs": []}', "[" * 100_000]
)
def test_a_damaged_note_is_no_reason_to_stop(workshop: Workshop, damage: str) -> None:
    workshop.open()
    for note in workshop.cache.glob("*.json"):
        note.write_text(damage)
    assert workshop.open() == b"image of first"


def test_an_image_that_somebody_removed_is_made_anew(workshop: Workshop) -> None:
    workshop.open()
    for image in workshop.cache.glob("*.img"):
        image.unlink()
    assert workshop.open() == b"image of first"
    assert workshop.made == 2


def test_a_cache_that_cannot_be_written_costs_time_only(workshop: Workshop) -> None:
    workshop.cache.write_text("a file where the directory should be")
    assert workshop.open() == b"image of first"


def test_the_cache_does_not_grow_for_ever(workshop: Workshop) -> None:
    for number in range(KEPT + 5):
        workshop.input.write_text(f"{number}")
        workshop.open(f"{number}")
    assert len(workshop.kept(".img")) == len(workshop.kept(".json")) == KEPT


def test_what_was_used_last_is_kept(workshop: Workshop) -> None:
    workshop.open("favourite")
    for number in range(KEPT + 5):
        workshop.open(f"{number}")
        workshop.open("favourite")
    made = workshop.made
    workshop.open("favourite")
    assert workshop.made == made


def test_what_a_crash_has_left_is_removed(workshop: Workshop) -> None:
    workshop.cache.mkdir()
    for name, age in (("old.tmp", 7200), ("new.tmp", 0)):
        (workshop.cache / name).write_text("")
        os.utime(workshop.cache / name, (time.time() - age,) * 2)
    workshop.open()
    assert workshop.kept(".tmp") == ["new.tmp"]


def test_many_at_once_get_whole_images(workshop: Workshop) -> None:
    script = (
        "import os, sys, time; sys.path.insert(0, sys.argv[1])\n"
        "from initrd.host.system.files import CacheEntry, open_cached\n"
        "for n in range(200):\n"
        "  key = str(n % 12)\n"
        "  make = lambda: CacheEntry(key.encode() * 100000, (sys.argv[3],))\n"
        "  fd = open_cached(sys.argv[2], key, make, lambda: time.time() + 60)\n"
        "  assert os.pread(fd, 10**7, 0) == key.encode() * 100000\n"
        "  os.close(fd)\n"
    )
    command = [sys.executable, "-c", script, TOP, str(workshop.cache), str(workshop.input)]
    many = [subprocess.Popen(command) for _ in range(4)]
    assert [one.wait() for one in many] == [0] * 4
