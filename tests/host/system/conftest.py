"""Private directories for tests, and files that seem to belong to other users.

With `owners` this user is USER, so that root is somebody else. Files are given to other users by
chown(2) where the tests run as root; elsewhere, and for files of root, fstat(2) is replaced.
"""

import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from initrd.host.system.private import PrivateFolder

ROOT, USER, STRANGER = 0, 4241, 4242


class Owners:
    """fstat(2) with the owners that a test gives to files, and with actions during the call."""

    def __init__(self) -> None:
        self.real_user, self.real_fstat = os.geteuid(), os.fstat
        self.user = USER  # to whom the files of the real user belong
        self.changed = {self.key(os.stat("/")): ROOT}
        self.actions: dict[tuple[int, int], Callable[[], object]] = {}

    def give(self, path: Path, uid: int) -> None:
        if self.real_user == ROOT and uid != ROOT:
            os.chown(path, uid, -1, follow_symlinks=False)
        else:
            self.changed[self.key(path.lstat())] = uid

    def after_the_check_of(self, path: Path, action: Callable[[], object]) -> None:
        self.actions[self.key(path.lstat())] = action

    def fstat(self, descriptor: int) -> os.stat_result:
        status = self.real_fstat(descriptor)
        key = self.key(status)
        self.actions.pop(key, lambda: None)()
        user = self.user if status.st_uid == self.real_user else status.st_uid
        fields = list(status[:10])
        fields[stat.ST_UID] = self.changed.get(key, user)
        return os.stat_result(fields)

    @staticmethod
    def key(status: os.stat_result) -> tuple[int, int]:
        return status.st_dev, status.st_ino


@pytest.fixture
def owners(monkeypatch: pytest.MonkeyPatch) -> Owners:
    owners = Owners()
    monkeypatch.setattr(os, "fstat", owners.fstat)
    monkeypatch.setattr(os, "geteuid", lambda: owners.user)
    return owners


@pytest.fixture
def no_descriptor_left_open() -> Iterator[None]:
    before = os.listdir("/proc/self/fd")
    yield
    assert os.listdir("/proc/self/fd") == before


@pytest.fixture
def empty_umask() -> Iterator[None]:
    """With it the modes that the tests see are those that the code asks for."""
    umask = os.umask(0)
    yield
    os.umask(umask)


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """A directory above the private one."""
    path = tmp_path / "base"
    path.mkdir(0o755)
    return path


@pytest.fixture
def folder(base: Path) -> Iterator[PrivateFolder]:
    with PrivateFolder.open(f"{base}/private", create=True) as opened:
        yield opened


@pytest.fixture
def files(folder: PrivateFolder, base: Path) -> Path:
    """The path of `folder`."""
    return base / "private"
