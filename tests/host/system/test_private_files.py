"""`PrivateFolder`: its files, their names, temporary files and locks."""

import fcntl
import os
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from initrd.host.system.private import PrivateFolder, UnsafeFolder, is_own_name
from tests.host.system.conftest import STRANGER, Owners
from tests.host.system.private_files import REPOSITORY, read, run_processes, write

TEMPORARY = ".0123456789abcdef.tmp"
pytestmark = pytest.mark.usefixtures("no_descriptor_left_open", "empty_umask")


def test_a_file_is_written_and_read_through_its_descriptor(
    folder: PrivateFolder, files: Path
) -> None:
    write(folder, "a-1.mem", b"content")
    assert read(folder, "a-1.mem") == (files / "a-1.mem").read_bytes() == b"content"
    with open(folder.open_file("a-1.mem", os.O_RDWR), "r+b") as file:
        file.write(b"CON")
    assert read(folder, "a-1.mem") == b"CONtent"


def test_a_missing_file_raises_file_not_found(folder: PrivateFolder) -> None:
    with pytest.raises(FileNotFoundError):
        folder.open_file("missing")


UNFIT: dict[str, Callable[[Path], object]] = {
    "directory": Path.mkdir,
    "pipe": lambda path: os.mkfifo(path, 0o600),
    "link": lambda path: path.symlink_to("other"),
    "dangling link": lambda path: path.symlink_to("gone"),
    "loop": lambda path: path.symlink_to(path.name),
    "hard link": lambda path: path.hardlink_to(path.parent / "other"),
    "readable by the group": lambda path: path.touch(0o640),
    "writable by others": lambda path: path.touch(0o602),
}


@pytest.mark.parametrize("kind", UNFIT)
def test_a_file_that_does_not_fit_is_refused_at_once(
    folder: PrivateFolder, files: Path, kind: str
) -> None:
    (files / "other").touch(0o600)
    UNFIT[kind](files / "name")
    for use in (
        lambda: folder.open_file("name"),
        lambda: folder.open_file("name", os.O_WRONLY),
        lambda: folder.open_file("name", os.O_RDWR),
        lambda: folder.lock("name"),
    ):
        with pytest.raises(UnsafeFolder) as caught:
            use()
        assert caught.value.what == f"cannot use the file {files}/name"
    assert not (files / "gone").exists()


def test_a_socket_is_refused(
    folder: PrivateFolder, files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(files)  # the path of a socket is limited to 107 bytes
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("name")
        with pytest.raises(UnsafeFolder):
            folder.open_file("name")


def test_a_device_is_refused() -> None:
    with (
        PrivateFolder("/dev", os.open("/dev", os.O_RDONLY)) as devices,
        pytest.raises(UnsafeFolder, match="cannot use the file /dev/null: it is no regular file"),
    ):
        devices.open_file("null")


def test_a_file_of_another_user_is_refused(owners: Owners, tmp_path: Path) -> None:
    with PrivateFolder.open(f"{tmp_path}/private", create=True) as folder:
        write(folder, "name", b"content")
        assert read(folder, "name") == b"content"
        owners.give(tmp_path / "private/name", STRANGER)
        with pytest.raises(UnsafeFolder, match="it belongs to user 4242"):
            folder.open_file("name")


def test_a_file_removed_while_it_is_opened_is_still_readable(
    owners: Owners, tmp_path: Path
) -> None:
    with PrivateFolder.open(f"{tmp_path}/private", create=True) as folder:
        write(folder, "name", b"content")
        owners.after_the_check_of(tmp_path / "private/name", lambda: folder.remove("name"))
        assert read(folder, "name") == b"content"


@pytest.mark.parametrize("flag", ["O_TRUNC", "O_CREAT", "O_APPEND", "O_PATH"])
def test_flags_other_than_access_modes_are_refused(folder: PrivateFolder, flag: str) -> None:
    write(folder, "name", b"content")
    with pytest.raises(ValueError, match="not an access mode"):
        folder.open_file("name", os.O_RDWR | getattr(os, flag))
    assert read(folder, "name") == b"content"


def test_descriptors_are_not_inherited(folder: PrivateFolder) -> None:
    descriptor, temporary = folder.create_temporary()
    assert not os.get_inheritable(descriptor)
    os.close(descriptor)
    descriptor = folder.open_file(temporary)
    assert not os.get_inheritable(descriptor)
    os.close(descriptor)


# --- names ---------------------------------------------------------------------------------------

OWN_NAMES = ["a", "0", "-", "a-b-9", "a.lock", "kernel-6.mem", TEMPORARY]
OTHER_NAMES = [
    *("", ".", "..", "a.", ".a", "a.b.c", "a_b", "A", "a.B", "a b", "a\n", "\n", "ä", "²", "a.b-c"),
    *(
        "a/b",
        "/a",
        "../a",
        "a\0",
        "\udcff",
        ".tmp",
        ".0123456789ABCDEF.tmp",
        ".0123456789abcde.tmp",
    ),
    *(TEMPORARY + "x", TEMPORARY[:-1], "." + TEMPORARY, ".0123456789abcdefg.tmp", TEMPORARY + "\n"),
]


@pytest.mark.parametrize("name", OWN_NAMES, ids=ascii)
def test_own_names_are_known(name: str) -> None:
    assert is_own_name(name)


@pytest.mark.parametrize("name", OTHER_NAMES, ids=ascii)
def test_other_names_raise_an_error(folder: PrivateFolder, name: str) -> None:
    assert not is_own_name(name)
    descriptor, temporary = folder.create_temporary()
    os.close(descriptor)
    for use in (
        lambda: folder.open_file(name),
        lambda: folder.remove(name),
        lambda: folder.lock(name),
        lambda: folder.commit(temporary, name, durable=False),
        lambda: folder.commit(name, "name", durable=False),
    ):
        with pytest.raises(ValueError, match="not a name for a file"):
            use()
    assert [found for found, _ in folder.entries()] == [temporary]


def test_entries_are_the_own_names_with_their_lstat(folder: PrivateFolder, files: Path) -> None:
    write(folder, "name.img", b"content")
    (files / "link").symlink_to("name.img")
    for other in ("README", ".hidden", "a.b.c"):
        (files / other).touch()
    found = dict(folder.entries())
    assert sorted(found) == ["link", "name.img"]
    assert found["name.img"].st_size == 7
    assert stat.S_ISLNK(found["link"].st_mode)


def test_an_entry_that_another_process_removes_is_left_out(
    folder: PrivateFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(folder, "name", b"")
    listdir = os.listdir
    with monkeypatch.context() as patch:
        patch.setattr(os, "listdir", lambda folder: [*listdir(folder), "removed"])
        assert [name for name, _ in folder.entries()] == ["name"]


def test_removing_a_missing_file_is_no_error(folder: PrivateFolder) -> None:
    write(folder, "name", b"")
    folder.remove("name")
    folder.remove("name")
    assert folder.entries() == []


def test_a_directory_is_not_removed(folder: PrivateFolder, files: Path) -> None:
    (files / "name").mkdir()
    with pytest.raises(OSError, match=r"directory|permitted"):
        folder.remove("name")
    assert (files / "name").is_dir()


# --- temporary files -----------------------------------------------------------------------------


def test_a_temporary_file_is_empty_and_only_for_this_user(
    folder: PrivateFolder, files: Path
) -> None:
    descriptor, name = folder.create_temporary()
    os.write(descriptor, b"content")
    assert os.pread(descriptor, 99, 0) == b"content"
    os.close(descriptor)
    assert stat.S_IMODE((files / name).stat().st_mode) == 0o600
    assert is_own_name(name)


@pytest.mark.parametrize("durable", [False, True])
def test_commit_replaces_a_file_and_leaves_its_readers_the_old_one(
    folder: PrivateFolder, files: Path, *, durable: bool
) -> None:
    write(folder, "name", b"old")
    with open(folder.open_file("name"), "rb") as reader:
        descriptor, temporary = folder.create_temporary()
        os.write(descriptor, b"new")
        os.close(descriptor)
        folder.commit(temporary, "name", durable=durable)
        assert reader.read() == b"old"
    assert read(folder, "name") == b"new"
    assert os.listdir(files) == ["name"]


def test_a_durable_commit_writes_the_file_to_the_disk_before_it_has_its_name(
    folder: PrivateFolder, files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    descriptor, temporary = folder.create_temporary()
    os.close(descriptor)
    synced = []

    def fsync(descriptor: int) -> None:
        synced.append((os.readlink(f"/proc/self/fd/{descriptor}"), (files / "name").exists()))

    monkeypatch.setattr(os, "fsync", fsync)
    folder.commit(temporary, "name", durable=True)
    assert synced == [(str(files / temporary), False)]


@pytest.mark.parametrize("durable", [False, True])
def test_commit_of_a_missing_file_keeps_the_old_one(
    folder: PrivateFolder, *, durable: bool
) -> None:
    write(folder, "name", b"old")
    with pytest.raises(FileNotFoundError):
        folder.commit(TEMPORARY, "name", durable=durable)
    assert read(folder, "name") == b"old"


def test_only_old_temporary_files_are_removed_as_stale(folder: PrivateFolder, files: Path) -> None:
    old = [TEMPORARY, "name", "other.tmp", ".swp.tmp", "README"]
    new = [".ffffffffffffffff.tmp"]
    (files / ".0000000000000000.tmp").mkdir()
    for name in (*old, *new):
        (files / name).touch()
    for name in (*old, ".0000000000000000.tmp"):
        os.utime(files / name, (time.time() - 7200,) * 2)
    folder.remove_stale_temporaries(3600)
    assert sorted(os.listdir(files)) == sorted([*old[1:], *new, ".0000000000000000.tmp"])


# --- locks ---------------------------------------------------------------------------------------


def is_locked_for_another_process(path: Path) -> bool:
    code = (
        "import sys; from initrd.host.system.private import PrivateFolder\n"
        "with PrivateFolder.open(sys.argv[1], create=False) as folder:\n"
        "    sys.exit(9 if folder.lock('a.lock') is None else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code, path], cwd=REPOSITORY, check=False)
    assert done.returncode in (0, 9)
    return done.returncode == 9


def test_a_lock_excludes_other_processes_until_it_is_released(
    folder: PrivateFolder, files: Path
) -> None:
    lock = folder.lock("a.lock")
    assert lock
    with lock:
        assert folder.lock("a.lock") is None
        assert is_locked_for_another_process(files)
    assert not is_locked_for_another_process(files)
    assert stat.S_IMODE((files / "a.lock").stat().st_mode) == 0o600


def test_a_lock_is_released_although_a_child_process_has_a_copy(folder: PrivateFolder) -> None:
    lock = folder.lock("a.lock")
    assert lock
    reader, writer = os.pipe()
    with lock:
        child = os.fork()
        if not child:
            os.close(writer)
            os.read(reader, 1)
            os._exit(0)
    again = folder.lock("a.lock")
    os.close(writer)
    os.waitpid(child, 0)
    os.close(reader)
    assert again
    with again:
        pass


@pytest.mark.parametrize("replaced", [False, True], ids=["removed", "replaced"])
def test_a_lock_file_removed_before_it_is_locked_is_not_used(
    folder: PrivateFolder, files: Path, monkeypatch: pytest.MonkeyPatch, *, replaced: bool
) -> None:
    flock = fcntl.flock
    calls: list[int] = []

    def remove_and_lock(descriptor: int, operation: int) -> None:
        if not calls:
            folder.remove("a.lock")
            if replaced:
                (files / "a.lock").touch(0o600)
        calls.append(descriptor)
        flock(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", remove_and_lock)
    lock = folder.lock("a.lock")
    assert lock
    with lock:
        assert len(calls) == 2
        assert is_locked_for_another_process(files)


def test_two_processes_never_hold_the_same_lock_though_its_file_is_removed(
    folder: PrivateFolder, files: Path
) -> None:
    run_processes(
        "from initrd.host.system.private import PrivateFolder\n"
        "held = 0\n"
        "with PrivateFolder.open(sys.argv[1], create=True) as folder:\n"
        "    while held < 300:\n"
        "        lock = folder.lock('a.lock')\n"
        "        if lock is None: continue\n"
        "        with lock:\n"
        "            held += 1\n"
        "            os.mkdir(sys.argv[1] + '/holder')\n"  # fails while another process is here
        "            os.rmdir(sys.argv[1] + '/holder')\n"
        "            if held % 3: folder.remove('a.lock')\n",
        str(files),
    )


def test_processes_that_commit_at_once_read_complete_files(
    folder: PrivateFolder, files: Path
) -> None:
    write(folder, "name", b"0" * 100_000)
    run_processes(
        "from initrd.host.system.private import PrivateFolder\n"
        "with PrivateFolder.open(sys.argv[1], create=True) as folder:\n"
        "    for number in range(200):\n"
        "        descriptor, temporary = folder.create_temporary()\n"
        "        with open(descriptor, 'wb') as file: file.write(b'%d' % (number % 10) * 100000)\n"
        "        folder.commit(temporary, 'name', durable=False)\n"
        "        with open(folder.open_file('name'), 'rb') as file: content = file.read()\n"
        "        assert len(content) == 100000 and len(set(content)) == 1\n"
        "        folder.remove_stale_temporaries(3600)\n",
        str(files),
    )
    assert os.listdir(files) == ["name"]
