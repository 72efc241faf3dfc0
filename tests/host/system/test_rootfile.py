"""Files of a hostile root: other kinds than regular files, links, exchanged paths, sizes."""

import errno
import os
import signal
import socket
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NoReturn

import pytest

from initrd.host.system import rootfile
from initrd.host.system.hosterror import HostError
from initrd.host.system.rootfile import (
    SizeLimit,
    find_in_root,
    list_directory,
    open_file,
    read_file,
    read_input,
)

LIMIT = SizeLimit(1 << 20, "a test")


@pytest.fixture(autouse=True)
def alarm() -> Iterator[None]:
    """End a test that blocks: the signal's default action ends the test process."""
    signal.alarm(60)
    yield
    signal.alarm(0)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A root directory, beside a file that is not for the guest."""
    (tmp_path / "secret").write_text("secret")
    (tmp_path / "root/dir").mkdir(parents=True)
    (tmp_path / "root/dir/file").write_text("content")
    return tmp_path / "root"


def make_socket(path: str) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(os.path.relpath(path))


SPECIAL: dict[str, Callable[[str], object]] = {
    "a named pipe": os.mkfifo,
    "a socket": make_socket,
    "a symbolic link": lambda path: os.symlink("dir/file", path),
}
if os.geteuid() == 0:
    SPECIAL["a character device"] = lambda path: os.mknod(path, stat.S_IFCHR | 0o600, 0x0105)
    SPECIAL["a block device"] = lambda path: os.mknod(path, stat.S_IFBLK | 0o600, 0x0700)


@pytest.mark.parametrize("kind", SPECIAL)
def test_file_of_another_kind_is_not_opened(kind: str, root: Path) -> None:
    path = f"{root}/special"
    SPECIAL[kind](path)
    with pytest.raises(HostError, match=f"^cannot read {path}: it is no regular file but {kind}$"):
        open_file(path)


@pytest.mark.parametrize("kind", [kind for kind in SPECIAL if kind != "a symbolic link"])
def test_link_of_the_user_to_a_file_of_another_kind_is_not_opened(kind: str, root: Path) -> None:
    SPECIAL[kind](f"{root}/special")
    (root / "link").symlink_to("special")
    for read in (read_input, lambda path, limit: read_file(path, limit, follow=True)):
        with pytest.raises(HostError, match=f"/link: it is no regular file but {kind}$"):
            read(f"{root}/link", LIMIT)


def test_directory_is_not_opened(root: Path) -> None:
    with pytest.raises(IsADirectoryError):
        open_file(f"{root}/dir")


def test_regular_file_is_read(root: Path) -> None:
    assert read_file(f"{root}/dir/file", LIMIT) == b"content"
    (root / "link").symlink_to("dir/file")
    assert read_file(f"{root}/link", LIMIT, follow=True) == read_input(f"{root}/link", LIMIT)


def test_pipe_of_this_process_is_read_to_its_end() -> None:
    reader, writer = os.pipe()
    with open(reader, "rb"), open(writer, "wb") as pipe:
        pipe.write(b"content")
        pipe.close()
        assert read_input(f"/dev/fd/{reader}", LIMIT) == b"content"


def test_pipe_with_more_than_the_limit_is_refused() -> None:
    reader, writer = os.pipe()
    with open(reader, "rb"), open(writer, "wb") as pipe:
        pipe.write(b"content")
        pipe.flush()
        with pytest.raises(HostError, match="more than 0 MiB, which is the limit for a test"):
            read_input(f"/dev/fd/{reader}", SizeLimit(6, "a test"))


@pytest.mark.parametrize(("size", "is_refused"), [(LIMIT.size, False), (LIMIT.size + 1, True)])
def test_file_above_the_limit_is_refused(size: int, root: Path, *, is_refused: bool) -> None:
    path = str(root / "large")
    Path(path).touch()
    os.truncate(path, size)
    if not is_refused:
        assert len(read_file(path, LIMIT)) == size
        return
    with pytest.raises(HostError, match=f"cannot read {path}: it has more than 1 MiB, which is"):
        read_file(path, LIMIT)


def test_file_that_grows_while_it_is_read_is_read_up_to_the_limit(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rootfile, "_check_file", lambda *_: os.truncate(path, 64 << 20))
    path = str(root / "dir/file")
    with pytest.raises(HostError, match="more than 1 MiB"):
        read_file(path, LIMIT)


@pytest.fixture(params=["openat2", "no openat2"])
def find(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """`find_in_root`, with and without the system call."""
    if request.param != "openat2":
        refuse_openat2(monkeypatch, errno.ENOSYS)
    return find_in_root


def refuse_openat2(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    def refuse(*_: object) -> NoReturn:
        raise OSError(number, "no openat2")

    monkeypatch.setattr(rootfile, "find_beneath", refuse)


@pytest.mark.parametrize(
    ("path", "inside"),
    [
        pytest.param("dir/file", "/dir/file", id="relative"),
        pytest.param("/dir/../dir//./file", "/dir/file", id="with dots"),
        pytest.param("../../../dir/file", "/dir/file", id="above the root"),
        pytest.param("absolute/file", "/dir/file", id="absolute link"),
        pytest.param("up/secret", "", id="link out of the root"),
        pytest.param("host", "", id="absolute link to a file of the host"),
        pytest.param("", "", id="the root itself"),
        pytest.param("gone/file", None, id="missing"),
        pytest.param("dir/file/x", None, id="below a file"),
    ],
)
def test_path_is_resolved_beneath_the_root(
    path: str, inside: str | None, root: Path, find: Callable[..., str]
) -> None:
    (root / "absolute").symlink_to("/dir")
    (root / "up").symlink_to("../..")
    (root / "host").symlink_to(root.parent / "secret")
    is_there = inside is not None and (inside or not path)
    assert find(str(root), path) == (f"{root}{inside}" if is_there else "")


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.EPERM, errno.EAGAIN, errno.EINTR])
def test_path_is_resolved_where_the_kernel_does_not(
    root: Path, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    (root / "link").symlink_to("/dir")
    refuse_openat2(monkeypatch, number)
    assert find_in_root(str(root), "link/file") == f"{root}/dir/file"


def test_link_of_proc_leads_nowhere(tmp_path: Path) -> None:
    directory = os.open(tmp_path, os.O_PATH)
    try:
        with pytest.raises(HostError, match="cannot follow"):
            find_in_root("/proc/self/fd", str(directory))
    finally:
        os.close(directory)


def test_result_has_no_link_of_the_host_either(root: Path, find: Callable[..., str]) -> None:
    (root.parent / "link").symlink_to("root")
    assert find(f"{root.parent}/link/.", "dir/file") == f"{root}/dir/file"
    assert find(f"{root.parent}/nowhere", "dir/file") == ""


@pytest.mark.parametrize(
    ("path", "why"),
    [
        pytest.param("a\0b", "NUL byte", id="NUL"),
        pytest.param("a/" * 3000, "File name too long", id="long path"),
        pytest.param("x" * 256, "File name too long", id="long name"),
        pytest.param("loop", "Too many levels of symbolic links", id="loop"),
    ],
)
def test_path_that_cannot_be_resolved_is_an_error(
    path: str, why: str, root: Path, find: Callable[..., str]
) -> None:
    (root / "loop").symlink_to("loop")
    with pytest.raises(HostError, match=f"cannot follow .*{why}"):
        find(str(root), path)


def test_links_with_long_targets_take_a_limited_number_of_steps(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(30):
        (root / f"link{number}").symlink_to("dir/../" * 500 + f"link{number + 1}")
    refuse_openat2(monkeypatch, errno.ENOSYS)
    calls: list[str] = []
    lstat = os.lstat
    monkeypatch.setattr(os, "lstat", lambda path: calls.append(path) or lstat(path))
    with pytest.raises(HostError, match="leads through too many directories"):
        find_in_root(str(root), "link0")
    assert len(calls) == 1000


@pytest.mark.parametrize("depth", ["dir", "dir/file"])
def test_path_that_has_got_a_link_is_not_opened(depth: str, root: Path) -> None:
    """Exchange a part of the path after it has been resolved, as a program in the root may."""
    outside = root.parent / "outside"
    (outside / "sub").mkdir(parents=True)
    (outside / "file").write_text("secret")
    (root / "dir/sub").mkdir()
    found = find_in_root(str(root), "dir/file")
    (root / depth).rename(root / "old")
    (root / depth).symlink_to(outside / depth.removeprefix("dir").lstrip("/"))
    with pytest.raises(HostError, match="symbolic link"):
        read_file(found, LIMIT)
    if depth == "dir":
        with pytest.raises(HostError, match="has got a symbolic link"):
            list_directory(f"{root}/dir/sub")


def test_file_exchanged_after_the_check_is_not_read(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = str(root / "dir/file")
    check = rootfile._check_file

    def exchange(descriptor: int, name: str, limit: SizeLimit | None) -> None:
        check(descriptor, name, limit)
        os.unlink(path)
        os.mkfifo(path)

    monkeypatch.setattr(rootfile, "_check_file", exchange)
    with pytest.raises(HostError, match="it was moved"):
        read_file(path, LIMIT)


def test_no_descriptor_is_left_open(root: Path) -> None:
    os.mkfifo(root / "fifo")
    before = os.listdir("/proc/self/fd")
    for path in ("dir/file", "fifo", "dir", "gone"):
        for read in (read_file, read_input):
            try:
                read(f"{root}/{path}", LIMIT)
            except (HostError, OSError):
                continue
    find_in_root(str(root), "dir/file")
    list_directory(f"{root}/dir")
    assert len(os.listdir("/proc/self/fd")) == len(before)


def test_directory_with_too_many_entries_is_refused(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert list_directory(f"{root}/dir") == ["file"]
    monkeypatch.setattr(rootfile, "MAX_ENTRIES", 3)
    for number in range(4):
        (root / f"dir/{number}").touch()
    with pytest.raises(HostError, match=f"cannot use {root}/dir: it has more than 3 entries"):
        list_directory(f"{root}/dir")
