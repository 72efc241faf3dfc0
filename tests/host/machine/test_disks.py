"""The locks of disk images, and the files that are no disks."""

import errno
import fcntl
import os
from pathlib import Path

import pytest

from initrd.host.machine.disks import lock_disks
from initrd.host.qemu.argv import Disk
from initrd.host.system.hosterror import HostError


@pytest.fixture
def image(tmp_path: Path) -> str:
    path = tmp_path / "an image, with: it all"
    path.write_bytes(b"data")
    return str(path)


def lock_and_release(*disks: Disk) -> None:
    with lock_disks(disks, {"PATH": "/nowhere"}):
        pass


@pytest.mark.parametrize(
    ("first", "second", "fits"),
    [(True, True, False), (True, False, False), (False, True, False), (False, False, True)],
)
def test_machines_share_an_image_only_when_all_of_them_read_it(
    image: str, *, first: bool, second: bool, fits: bool
) -> None:
    kind = fcntl.LOCK_EX if first else fcntl.LOCK_SH
    with open(image, "rb") as other_machine:
        fcntl.flock(other_machine, kind)
        if fits:
            lock_and_release(Disk(image, writable=second))
        else:
            with pytest.raises(HostError, match=f"cannot use {image} as a disk: another chrootvm"):
                lock_and_release(Disk(image, writable=second))
    lock_and_release(Disk(image, writable=second))


def test_locks_are_held_and_released_with_the_machine(image: str) -> None:
    with open(image, "rb") as other_machine:
        with lock_disks((Disk(image),), {}), pytest.raises(BlockingIOError):
            fcntl.flock(other_machine, fcntl.LOCK_SH | fcntl.LOCK_NB)
        fcntl.flock(other_machine, fcntl.LOCK_EX | fcntl.LOCK_NB)


@pytest.mark.parametrize("writable", [(True, True), (True, False), (False, True)])
def test_file_that_is_two_disks_of_a_machine_is_refused(
    image: str, tmp_path: Path, writable: tuple[bool, bool]
) -> None:
    os.link(image, tmp_path / "link")
    first, second = (
        Disk(path, writable=each)
        for path, each in zip((image, str(tmp_path / "link")), writable, strict=True)
    )
    with pytest.raises(HostError, match="link as a disk: it is another disk of this machine"):
        lock_and_release(first, second)


def test_file_that_is_two_read_only_disks_is_shared(image: str) -> None:
    lock_and_release(Disk(image, writable=False), Disk(image, writable=False))


@pytest.mark.parametrize("writable", [True, False])
@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("missing", "No such file or directory"),
        ("", "Is a directory"),
        ("pipe", "neither a file nor a disk"),
        ("empty", "it is empty\ntry: truncate -s 1G"),
        ("image/file", "Not a directory"),
    ],
)
def test_file_that_is_no_disk_is_refused_and_not_changed(
    tmp_path: Path, name: str, why: str, *, writable: bool
) -> None:
    (tmp_path / "image").write_text("mine")
    (tmp_path / "empty").touch()
    os.mkfifo(tmp_path / "pipe")
    path = str(tmp_path / name)
    before = sorted(os.listdir(tmp_path))
    with pytest.raises(HostError, match=f"cannot use {path} as a disk: .*{why}"):
        lock_and_release(Disk(path, writable=writable))
    assert sorted(os.listdir(tmp_path)) == before
    assert (tmp_path / "image").read_text() == "mine"


@pytest.mark.parametrize("code", [errno.EBUSY, errno.EACCES, errno.EROFS])
def test_file_that_can_only_be_read_is_refused_as_a_writable_disk(
    image: str, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    really_open = os.open

    def open_for_readers(path: str, flags: int) -> int:
        if flags & os.O_RDWR:
            assert flags & os.O_EXCL, "or a mounted device could be opened"
            raise OSError(code, os.strerror(code))
        return really_open(path, flags)

    monkeypatch.setattr(os, "open", open_for_readers)
    lock_and_release(Disk(image, writable=False))
    with pytest.raises(HostError) as raised:
        lock_and_release(Disk(image))
    assert (raised.value.why, raised.value.hint) == (os.strerror(code), f"{image},ro")


def test_disk_of_an_overlay_has_to_hold_a_file_system(image: str) -> None:
    with pytest.raises(HostError, match="cannot keep the overlay"):
        lock_and_release(Disk(image, overlay=True))


def test_no_descriptor_stays_open_after_an_error(image: str, tmp_path: Path) -> None:
    before = sorted(os.listdir("/proc/self/fd"))
    with pytest.raises(HostError):
        lock_and_release(Disk(image), Disk(str(tmp_path / "missing")))
    assert sorted(os.listdir("/proc/self/fd")) == before
