"""chrootvm --clean-cache: what is deleted, and what is not."""

import errno
import os
from pathlib import Path

import pytest

from initrd.host.image.build import open_boot_image
from initrd.host.machine.cache import clean_cache
from initrd.host.qemu.accel import cached_result
from initrd.host.system import cached
from initrd.host.system.cached import Cache
from initrd.host.system.hosterror import HostError
from initrd.host.system.private import PrivateFolder, UnsafeFolder

FOLDERS = ("images", "kernels", "modules", "templates", "virtiofsd")
OWN = (
    f"{'0' * 32}.img",
    "01234567.json",
    "01234567.entry",
    "01234567.template",
    "01234567.failure",
    "lock",
    ".0123456789abcdef.tmp",
)
OTHERS = ("Notes.txt", "a.b.c", "a b", ".hidden", "UPPER", "ä", "notes.txt", "0.img", "a.json", "x")


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    path = tmp_path / "cache"
    path.mkdir(0o700)
    return path


def fill(folder: Path, names: tuple[str, ...]) -> None:
    folder.mkdir(0o700, exist_ok=True)
    for name in names:
        (folder / name).write_text("content")


def content(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_own_files_are_deleted_in_each_directory(cache: Path) -> None:
    for name in FOLDERS:
        fill(cache / name, OWN + OTHERS)
    fill(cache, ("kvm", *OTHERS))
    clean_cache(str(cache))
    for name in FOLDERS:
        assert content(cache / name) == set(OTHERS)
    assert content(cache) == {*FOLDERS, *OTHERS}


def test_missing_directories_are_no_error(cache: Path) -> None:
    clean_cache(str(cache / "gone"))
    assert not (cache / "gone").exists()
    fill(cache / "kernels", OWN)
    clean_cache(str(cache))
    assert content(cache) == {"kernels"}
    assert content(cache / "kernels") == set()


def test_other_directories_are_left_alone(cache: Path) -> None:
    fill(cache / "other", OWN)
    fill(cache / "images", ())
    fill(cache / "images/deeper", OWN)
    clean_cache(str(cache))
    assert content(cache / "other") == content(cache / "images/deeper") == set(OWN)


def test_only_regular_files_are_deleted(cache: Path, tmp_path: Path) -> None:
    (tmp_path / "target").write_text("content")
    fill(cache / "images", ())
    (cache / "images/link").symlink_to(tmp_path / "target")
    (cache / "images/folder").mkdir()
    os.mkfifo(cache / "images/pipe")
    clean_cache(str(cache))
    assert content(cache / "images") == {"link", "folder", "pipe"}
    assert (tmp_path / "target").read_text() == "content"


@pytest.mark.parametrize("name", [*FOLDERS, ""])
def test_link_to_a_directory_is_not_followed(cache: Path, tmp_path: Path, name: str) -> None:
    fill(tmp_path / "target", OWN)
    path = cache / name if name else cache
    if not name:
        path.rmdir()
    path.symlink_to(tmp_path / "target")
    with pytest.raises(UnsafeFolder, match="symbolic link"):
        clean_cache(str(cache))
    assert content(tmp_path / "target") == set(OWN)


@pytest.mark.parametrize("name", [*FOLDERS, ""])
@pytest.mark.parametrize("mode", [0o770, 0o702, 0o777])
def test_directory_that_others_can_write_to_is_an_error(cache: Path, name: str, mode: int) -> None:
    folder = cache / name if name else cache
    fill(folder, OWN)
    folder.chmod(mode)
    with pytest.raises(UnsafeFolder):
        clean_cache(str(cache))
    assert content(folder) == set(OWN)


@pytest.mark.parametrize("name", [*FOLDERS, ""])
@pytest.mark.parametrize("mode", [0o755, 0o750, 0o711])
def test_directory_that_others_can_read_is_cleaned(cache: Path, name: str, mode: int) -> None:
    # Versions of chrootvm without templates made the cache's directory by the umask.
    folder = cache / name if name else cache
    fill(folder, OWN)
    folder.chmod(mode)
    clean_cache(str(cache))
    assert not set(OWN) & content(folder)


def test_file_in_the_place_of_a_directory_is_an_error(cache: Path) -> None:
    (cache / "images").write_text("content")
    with pytest.raises(HostError, match="no directory"):
        clean_cache(str(cache))


def test_file_that_cannot_be_deleted_is_an_error(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    fill(cache / "images", OWN)
    monkeypatch.setattr(os, "unlink", fail)
    with pytest.raises(HostError, match=r"cannot delete the files in .*cache: Read-only"):
        clean_cache(str(cache))


def test_all_that_is_saved_can_be_deleted_and_is_private(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cached, "_RECENT", -1e9)  # what is new is cached, too
    (tmp_path / "init").write_bytes(b"\x7fELF program")
    cache = tmp_path / "home/cache"
    umask = os.umask(0o002)  # the usual one of users with a group of their own
    try:
        with Cache(str(cache)) as opened:
            image = open_boot_image(str(tmp_path / "init"), "", (), opened)
            cached_result(opened, "boot", lambda: "works")
        os.close(image.descriptor)
        with PrivateFolder.open(str(cache / "templates"), create=True):
            pass
    finally:
        os.umask(umask)
    assert content(cache) == {"images", "kvm", "templates"}
    assert {path.stat().st_mode & 0o777 for path in (cache, *cache.glob("*/"))} == {0o700}
    clean_cache(str(cache))
    assert content(cache) == {"images", "templates"}
    assert content(cache / "images") == set()
