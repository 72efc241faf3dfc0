"""Templates on disk: which files are used, which are not, and which are removed."""

import errno
import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from initrd.host.system.hosterror import HostError
from initrd.host.system.private import UnsafeFolder
from initrd.host.template import memory, store
from initrd.host.template.make import Snapshot
from initrd.host.template.store import Store, StoredTemplate

KEY = "key of 'a' template\n/some/file"
STATE = bytes(range(256)) * 40
BLOCK = 1 << 14
SIZE = 32 * BLOCK
LIMIT = 1 << 30
HOUR = 3600.0  # seconds


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "cache/templates"


@pytest.fixture
def templates(folder: Path) -> Store:
    return Store(str(folder), LIMIT)


@pytest.fixture
def snapshot() -> Iterator[Snapshot]:
    descriptor = memory.create(SIZE)
    os.pwrite(descriptor, os.urandom(3 * BLOCK), BLOCK)
    os.pwrite(descriptor, b"end", SIZE - 3)
    yield Snapshot(STATE, descriptor)
    os.close(descriptor)


@pytest.fixture
def saved(templates: Store, snapshot: Snapshot, folder: Path) -> Path:
    """The file of the template for KEY."""
    templates.save(KEY, snapshot)
    (path,) = folder.iterdir()
    return path


def found(templates: Store, key: str = KEY) -> bool:
    """Return whether there is a template; close it."""
    template = templates.find(key)
    if template is not None:
        template.close()
    return template is not None


def load(template: StoredTemplate) -> tuple[bytes, bytes]:
    """Return the state and the memory of a template; close it."""
    target = memory.create(SIZE)
    try:
        state = template.load(target)
        return state, os.pread(target, SIZE, 0)
    finally:
        os.close(target)
        template.close()


def test_saved_template_is_found_with_its_state_and_memory(
    templates: Store, snapshot: Snapshot, saved: Path
) -> None:
    for _ in range(2):
        template = templates.find(KEY)
        assert template is not None
        assert load(template) == (STATE, os.pread(snapshot.memory, SIZE, 0))
    assert saved.stat().st_mode & 0o777 == 0o600
    assert saved.parent.stat().st_mode & 0o777 == 0o700


def test_time_of_a_template_is_one_that_every_file_system_keeps(saved: Path) -> None:
    assert header_of(saved)["changed"] == saved.stat().st_mtime_ns
    assert saved.stat().st_mtime_ns % 10**9 == 0
    assert abs(saved.stat().st_atime - time.time()) < 60


def test_template_of_an_empty_memory_is_found(templates: Store) -> None:
    descriptor = memory.create(SIZE)
    templates.save(KEY, Snapshot(STATE, descriptor))
    os.close(descriptor)
    template = templates.find(KEY)
    assert template is not None
    assert load(template) == (STATE, bytes(SIZE))


def test_there_is_no_template_before_one_is_saved(templates: Store, folder: Path) -> None:
    assert templates.find(KEY) is None
    assert templates.find_failure(KEY) == ""
    assert not folder.exists()


def test_key_may_have_any_characters(templates: Store, snapshot: Snapshot) -> None:
    key = 'ä\udcff\n\0"\\'
    templates.save(key, snapshot)
    assert found(templates, key)
    templates.save_failure(key, key)
    assert templates.find_failure(key) == key


def test_other_key_with_the_same_file_name_is_not_used(
    templates: Store, snapshot: Snapshot, saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "_file_name", lambda *_: saved.name)
    assert found(templates)
    assert not found(templates, "another")
    templates.save("another", snapshot)
    assert found(templates, "another")
    assert not found(templates)


def header_of(path: Path) -> dict[str, object]:
    return json.loads(path.read_bytes().split(b"\n", 1)[0])


def replace_content(path: Path, content: bytes) -> None:
    """Change a file, but not its time."""
    status = path.stat()
    path.write_bytes(content)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def change_byte(path: Path, offset: int) -> None:
    content = bytearray(path.read_bytes())
    content[offset] ^= 1
    replace_content(path, bytes(content))


def change_header(**changes: object) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        rest = path.read_bytes().split(b"\n", 1)[1]
        header = {**header_of(path), **changes}
        replace_content(path, json.dumps(header).encode() + b"\n" + rest)

    return change


def end_of_header(path: Path) -> int:
    return path.read_bytes().index(b"\n") + 1


def end_of_table(path: Path) -> int:
    return end_of_header(path) + 16 * int(str(header_of(path)["extents"]))


def replace_by(make: Callable[[Path], object]) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        path.rename(path.with_name("other"))
        make(path)

    return change


DAMAGE: dict[str, Callable[[Path], object]] = {
    "one byte is missing": lambda path: replace_content(path, path.read_bytes()[:-1]),
    "one byte more": lambda path: replace_content(path, path.read_bytes() + b"x"),
    "first byte of the table": lambda path: change_byte(path, end_of_header(path)),
    "last byte of the table": lambda path: change_byte(path, end_of_table(path) - 1),
    "first byte of the state": lambda path: change_byte(path, end_of_table(path)),
    "last byte of the state": lambda path: change_byte(path, end_of_table(path) + len(STATE) - 1),
    "line break after the header": lambda path: change_byte(path, end_of_header(path) - 1),
    "first byte": lambda path: change_byte(path, 0),
    "later change": lambda path: os.utime(path, ns=(0, path.stat().st_mtime_ns + 1)),
    "earlier change": lambda path: os.utime(path, ns=(0, path.stat().st_mtime_ns - 1)),
    "written without a change": lambda path: path.write_bytes(path.read_bytes()),
    "empty": lambda path: replace_content(path, b""),
    "no header": lambda path: replace_content(path, b"\n" + path.read_bytes()),
    "header is a list": lambda path: replace_content(path, b"[]\n"),
    "header is a number": lambda path: replace_content(path, b"1\n"),
    "header is no UTF-8": lambda path: replace_content(path, b"\xff\xfe\n"),
    "header is deeply nested": lambda path: replace_content(path, b"[" * 60000 + b"\n"),
    "header lacks fields": lambda path: replace_content(path, b"{}\n"),
    "another key": change_header(key="another"),
    "no extents": change_header(extents=0),
    "negative extents": change_header(extents=-1),
    "extents beyond all memory": change_header(extents=1 << 50),
    "extents beyond all numbers": change_header(extents=10**30),
    "extents are text": change_header(extents="1"),
    "extents are a fraction": change_header(extents=1.5),
    "extents are infinite": change_header(extents=float("inf")),
    "extents are no number": change_header(extents=float("nan")),
    "extents are missing": change_header(extents=None),
    "no state": change_header(state=0),
    "all is state": change_header(state=-1),
    "state beyond all numbers": change_header(state=10**30),
    "state is missing": change_header(state=None),
    "less content": change_header(content=0),
    "content is text": change_header(content="1"),
    "another checksum": change_header(checksum=0),
    "readable by all": lambda path: path.chmod(0o644),
    "writable by the group": lambda path: path.chmod(0o620),
    "symbolic link": replace_by(lambda path: path.symlink_to("other")),
    "dangling link": replace_by(lambda path: path.symlink_to("gone")),
    "hard link": lambda path: path.with_name("other").hardlink_to(path),
    "pipe": replace_by(lambda path: os.mkfifo(path, 0o600)),
    "directory": replace_by(lambda path: path.mkdir(0o700)),
    "unreadable": lambda path: path.chmod(0o000) if os.geteuid() else path.unlink(),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_file_is_not_used(templates: Store, saved: Path, damage: str) -> None:
    assert found(templates)
    DAMAGE[damage](saved)
    assert not found(templates)


@pytest.mark.parametrize("damage", sorted(DAMAGE.keys() - {"directory"}))
def test_damaged_file_is_replaced_by_the_next_template(
    templates: Store, snapshot: Snapshot, saved: Path, damage: str
) -> None:
    DAMAGE[damage](saved)
    templates.save(KEY, snapshot)
    assert found(templates)


@pytest.mark.parametrize("number", [errno.EIO, errno.EACCES, errno.ESTALE])
def test_file_that_cannot_be_read_is_not_used(
    templates: Store, saved: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(store.PrivateFolder, "open_file", fail)
    assert saved.exists()
    assert not found(templates)
    assert templates.find_failure(KEY) == ""


def test_truncation_after_the_check_is_an_os_error(templates: Store, saved: Path) -> None:
    template = templates.find(KEY)
    assert template is not None
    os.truncate(saved, saved.stat().st_size - 1)
    with pytest.raises(OSError, match="truncated"):
        load(template)


def test_template_that_another_process_removes_can_still_be_loaded(
    templates: Store, snapshot: Snapshot, saved: Path
) -> None:
    template = templates.find(KEY)
    assert template is not None
    saved.unlink()
    assert load(template) == (STATE, os.pread(snapshot.memory, SIZE, 0))


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda path: path.chmod(0o750), id="readable by the group"),
        pytest.param(lambda path: path.chmod(0o702), id="writable by others"),
        pytest.param(lambda path: path.parent.chmod(0o777), id="a parent is writable by others"),
        pytest.param(lambda path: path.symlink_to(path.rename(path.with_name("other"))), id="link"),
        pytest.param(
            lambda path: path.rename(path.with_name("other")) and path.touch(), id="a file"
        ),
    ],
)
def test_unsafe_directory_is_an_error(
    templates: Store, snapshot: Snapshot, saved: Path, change: Callable[[Path], object]
) -> None:
    change(saved.parent)
    with pytest.raises(UnsafeFolder):
        templates.find(KEY)
    with pytest.raises(UnsafeFolder):
        templates.find_failure(KEY)
    with pytest.raises(UnsafeFolder):
        templates.save(KEY, snapshot)
    with pytest.raises(UnsafeFolder):
        templates.save_failure(KEY, "why")
    with pytest.raises(UnsafeFolder), templates.lock():
        pass


def save_all(folder: Path, snapshot: Snapshot, keys: str, limit: int = LIMIT) -> None:
    """Save templates that were used a second after one another, in the order of the keys."""
    for number, key in enumerate(keys):
        Store(str(folder), limit).save(key, snapshot)
        path = folder / store._file_name(key)
        os.utime(path, ns=(number * 10**9, path.stat().st_mtime_ns))


def kept(folder: Path, keys: str) -> str:
    return "".join(key for key in keys if (folder / store._file_name(key)).exists())


def size_of(folder: Path, key: str) -> int:
    return (folder / store._file_name(key)).stat().st_blocks * 512


def test_templates_used_longest_ago_are_removed_beyond_the_limit(
    folder: Path, snapshot: Snapshot
) -> None:
    save_all(folder, snapshot, "abc")
    limit = 3 * size_of(folder, "a")
    Store(str(folder), limit).save("d", snapshot)
    assert kept(folder, "abcd") == "bcd"
    Store(str(folder), limit - 1).save("e", snapshot)
    assert kept(folder, "abcde") == "de"


def test_use_of_a_template_keeps_it(folder: Path, snapshot: Snapshot) -> None:
    save_all(folder, snapshot, "abc")
    templates = Store(str(folder), 3 * size_of(folder, "a"))
    changed = (folder / store._file_name("a")).stat().st_mtime_ns
    assert found(templates, "a")
    assert (folder / store._file_name("a")).stat().st_mtime_ns == changed
    templates.save("d", snapshot)
    assert kept(folder, "abcd") == "acd"


def size_on_disk(path: Path) -> int:
    return path.stat().st_blocks * 512


def test_limit_below_one_template_leaves_none(folder: Path, snapshot: Snapshot) -> None:
    templates = Store(str(folder), 1)
    with pytest.raises(OSError, match="bytes, more than --cache-limit"):
        templates.save("a", snapshot)
    assert list(folder.iterdir()) == []


def test_directory_with_the_name_of_a_template_does_not_keep_the_limit_from_being_applied(
    folder: Path, snapshot: Snapshot
) -> None:
    save_all(folder, snapshot, "a")
    size = size_on_disk(folder / store._file_name("a"))
    (folder / "00000000.template").mkdir()
    Store(str(folder), size).save("b", snapshot)
    names = {path.name for path in folder.iterdir()}
    assert names == {"00000000.template", store._file_name("b")}


def test_limit_concerns_no_other_files(folder: Path, snapshot: Snapshot) -> None:
    save_all(folder, snapshot, "b")
    templates = Store(str(folder), size_on_disk(folder / store._file_name("b")))
    templates.save_failure("c", "why")
    (folder / "notes.txt").write_text("of the user")
    (folder / "Notes.template").write_text("no name of ours")
    templates.save("a", snapshot)
    assert {path.name for path in folder.iterdir()} == {
        store._file_name("a"),
        store._file_name("c", ".failure"),
        "notes.txt",
        "Notes.template",
    }


@pytest.mark.parametrize("call", ["sendfile", "write", "utime", "rename"])
def test_full_disk_leaves_no_file(
    templates: Store,
    snapshot: Snapshot,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    call: str,
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    target = (store, "_write") if call == "write" else (os, call)
    monkeypatch.setattr(*target, fail)
    with pytest.raises(OSError, match="No space"):
        templates.save(KEY, snapshot)
    assert list(folder.iterdir()) == []


def test_full_disk_keeps_the_template_that_is_there(
    templates: Store, snapshot: Snapshot, saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "sendfile", fail)
    with pytest.raises(OSError, match="No space"):
        templates.save(KEY, snapshot)
    assert found(templates)
    assert list(saved.parent.iterdir()) == [saved]


def test_interrupted_saving_leaves_no_file(
    templates: Store, snapshot: Snapshot, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "sendfile", interrupt)
    with pytest.raises(KeyboardInterrupt):
        templates.save(KEY, snapshot)
    assert list(folder.iterdir()) == []


def test_saving_removes_temporary_files_of_crashes(
    templates: Store, snapshot: Snapshot, saved: Path
) -> None:
    for name, age in ((".0123456789abcdef.tmp", 601.0), (".1123456789abcdef.tmp", 300.0)):
        (saved.parent / name).touch(0o600)
        os.utime(saved.parent / name, (time.time() - age,) * 2)
    templates.save(KEY, snapshot)
    assert {path.name for path in saved.parent.iterdir()} == {saved.name, ".1123456789abcdef.tmp"}


def test_failure_is_remembered_for_its_key(templates: Store) -> None:
    templates.save_failure(KEY, "no 'vmgenid'\nin this ä QEMU")
    assert templates.find_failure(KEY) == "no 'vmgenid'\nin this ä QEMU"
    assert templates.find_failure("another") == ""


def test_latest_failure_is_remembered(templates: Store) -> None:
    templates.save_failure(KEY, "first")
    templates.save_failure(KEY, "second")
    assert templates.find_failure(KEY) == "second"


def test_failure_of_another_key_with_the_same_file_name_is_ignored(
    templates: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "_file_name", lambda *_: "0.failure")
    templates.save_failure(KEY, "why")
    assert templates.find_failure("another") == ""


def test_failure_removes_the_template(templates: Store, saved: Path) -> None:
    templates.save_failure(KEY, "why")
    assert not saved.exists()
    assert not found(templates)


def test_failure_is_forgotten_after_an_hour(
    templates: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    templates.save_failure(KEY, "why")
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + HOUR - 10)
    assert templates.find_failure(KEY) == "why"
    monkeypatch.setattr(time, "time", lambda: now + HOUR + 10)
    assert templates.find_failure(KEY) == ""


DAMAGED_FAILURES: dict[str, Callable[[Path], object]] = {
    "empty": lambda path: path.write_bytes(b""),
    "no JSON": lambda path: path.write_bytes(b"why"),
    "no UTF-8": lambda path: path.write_bytes(b"\xff"),
    "a list": lambda path: path.write_bytes(b"[]"),
    "a number": lambda path: path.write_bytes(b"1"),
    "without a key": lambda path: path.write_bytes(b'{"why": "x"}'),
    "without a reason": lambda path: path.write_bytes(json.dumps({"key": KEY}).encode()),
    "deeply nested": lambda path: path.write_bytes(b"[" * 100000),
    **{
        name: DAMAGE[name]
        for name in ("readable by all", "symbolic link", "dangling link", "pipe", "directory")
    },
}


@pytest.mark.parametrize("damage", DAMAGED_FAILURES)
def test_damaged_failure_is_ignored(templates: Store, folder: Path, damage: str) -> None:
    templates.save_failure(KEY, "why")
    (path,) = folder.iterdir()
    DAMAGED_FAILURES[damage](path)
    assert templates.find_failure(KEY) == ""


def test_failure_that_cannot_be_written_leaves_no_file(
    templates: Store, folder: Path, saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(json, "dump", fail)
    with pytest.raises(OSError, match="No space"):
        templates.save_failure(KEY, "why")
    assert list(folder.iterdir()) == []
    assert not saved.exists()


def test_second_holder_of_the_lock_gets_false(templates: Store, folder: Path) -> None:
    with templates.lock() as first, Store(str(folder), LIMIT).lock() as second:
        assert (first, second) == (True, False)
    with templates.lock() as third:
        assert third


def test_error_inside_the_lock_is_passed_on_and_releases_it(templates: Store) -> None:
    for error in (HostError("a", "b"), PermissionError(errno.EPERM, "no"), KeyboardInterrupt()):
        with pytest.raises(type(error)) as raised, templates.lock():
            raise error
        assert raised.value is error
        with templates.lock() as is_locked:
            assert is_locked


def test_error_of_the_lock_is_a_host_error(
    templates: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(store.PrivateFolder, "lock", fail)
    with (
        pytest.raises(HostError, match=r"cannot use .*templates: No locks available"),
        templates.lock(),
    ):
        pass


def test_removal_of_the_lock_file_does_not_release_the_lock_of_its_holder(
    templates: Store, folder: Path
) -> None:
    with templates.lock() as first:
        (folder / "lock").unlink()
        with templates.lock() as second:
            assert (first, second) == (True, True)  # a new file: the cache was deleted meanwhile
