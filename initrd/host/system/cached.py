"""Keep generated files in the user's cache: images, uncompressed kernels, outputs of programs.

An entry is two files in a folder of the cache: the generated file, named by a digest of its
content, and a description, named by a checksum of the key. The description has the state of each
input, the files that the generated one was made from. A changed input has another ctime, even when
its size and its time of modification are the same, and the entry is then made again.

A generated file is used only if it is the one that was written. Its time of modification is set to
a fixed value when it is complete, so that a later write is noticed, and its size and a checksum of
both ends are compared. A checksum of the whole would take each start longer than all other work on
the host. A file is on the disk before it has its name, so a crash of the host leaves none of zeros.

Processes may use the cache at the same time: a generated file is used through its descriptor, which
stays valid when another process replaces or removes the file. `PrivateFolder` opens the
directories, and this module works relative to them. An entry that cannot be kept is in memory only;
`Cache.problem` is the reason, for all entries.
"""

import binascii
import os
import stat
import time

from initrd.host.system.hosterror import HostError
from initrd.host.system.private import PrivateFolder, is_number
from initrd.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Self

ENTRIES_KEPT = 8
# Folders in the cache.
IMAGES, KERNELS, HELP_TEXTS, QEMU_ANSWERS = "images", "kernels", "virtiofsd", "qemu"
FOLDERS = (IMAGES, KERNELS, HELP_TEXTS, QEMU_ANSWERS)
_RECENT = 2.0  # seconds; a file changed so recently may change again without a new ctime
_MAX_DESCRIPTION = 1 << 22  # bytes; that of an image with a hundred modules has 20 kB
_COMPLETE = 946_684_800 * 10**9  # the time of modification of a complete file: 2000-01-01
_END = 1 << 14  # bytes of each end of a file in its checksum
# A description has the key, the name of the file, its size and checksum, then a path and a state
# for each input, all separated by NUL. (The import of `json` would add 1 ms to each start.)
_SUFFIX = ".entry"
_MARK = "end"  # the last field of a complete description
FileState = list[int]


class CacheEntry(Record):
    """The content of a generated file, and the paths of all files that it was made from."""

    content: bytes
    inputs: tuple[str, ...]  # also the paths that were tried and do not exist


class Cache:
    """The user's cache, open for a `with`; it keeps nothing where other users could change it.

    `problem`: why files cannot be kept, or an UnsafeFolder: why nothing in a directory is used.
    """

    def __init__(self, path: str) -> None:
        """Open the directory at an absolute path, and make it where it is missing."""
        self.path = path
        self.problem: HostError | None = None
        self.folder: PrivateFolder | None = None
        try:
            self.folder = open_cache(path, create=True)
        except HostError as error:
            self.problem = error
            return
        if not self.folder.is_writable():
            self.problem = HostError(f"cannot write to the directory {path}", "it is read-only")

    def __enter__(self) -> "Self":
        return self

    def __exit__(self, *_: object) -> None:
        if self.folder is not None:
            self.folder.close()

    def open_folder(self, name: str, *, create: bool) -> PrivateFolder:
        """Open a folder of the cache. Raises OSError; and HostError if it cannot be used."""
        if self.folder is None:
            raise self.problem or HostError(f"cannot use {self.path}", "it is closed")
        try:
            return self.folder.open_folder(name, create=create)
        except HostError as error:
            self.problem = self.problem or error
            raise

    def check_folders(self) -> None:
        """Set `problem` to that of a folder, if there is one."""
        for name in FOLDERS:
            try:
                self.open_folder(name, create=False).close()
            except (OSError, HostError):  # it will be made; or the problem is known now
                pass


class CacheFolder(Record):
    """A folder of the cache."""

    cache: Cache
    name: str
    kept: int = ENTRIES_KEPT  # no more than the entries that were used last

    def open(self, *, create: bool) -> PrivateFolder:
        """Open the folder. Raises OSError and HostError."""
        return self.cache.open_folder(self.name, create=create)


def open_cached(
    folder: CacheFolder,
    key: str,
    make: "Callable[[], CacheEntry]",
    clock: "Callable[[], float]" = time.time,
) -> int:
    """Return a descriptor of the file for `key`: from the cache, or from `make`."""
    descriptor = _open_current(folder, key)
    if descriptor is not None:
        return descriptor
    began = clock()
    entry = make()
    if _store(folder, key, entry, began):
        descriptor = _open_current(folder, key)
    return _open_in_memory(entry.content) if descriptor is None else descriptor


def read_answer(folder: CacheFolder, program: str, ask: "Callable[[str], bytes]") -> bytes:
    """Return what a program prints: from the cache while its file is unchanged, else from `ask`.

    A script is asked each time, because it may start another program without changing. Raises what
    `ask` raises, and keeps nothing then.
    """
    if _is_script(program):
        return ask(program)
    descriptor = open_cached(folder, program, lambda: CacheEntry(ask(program), (program,)))
    with open(descriptor, "rb") as file:
        file.seek(0)  # the offset of a file in memory is at its end
        return file.read()


def open_cache(cache: str, *, create: bool) -> PrivateFolder:
    """Open the directory of the cache. Raises what `PrivateFolder.open` raises."""
    return PrivateFolder.open(cache, create=create, readable=True, own_names=1)


def is_entry_name(name: str) -> bool:
    """Return whether a file of this name can be one of an entry."""
    suffixes = (_SUFFIX, ".json")  # the second one is of earlier versions
    return is_number(name, 32, ".img") or any(is_number(name, 8, suffix) for suffix in suffixes)


def file_state(path: str) -> "FileState | None":
    """Return numbers of which one changes whenever the file does; None when it does not exist."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return [status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns]


def name_of(content: bytes) -> str:
    """Return the name of a file with this content in the cache: a digest of it."""
    import hashlib  # noqa: PLC0415 - a slow import, not needed for an entry from the cache

    return hashlib.blake2b(content, digest_size=16).hexdigest() + ".img"


def _is_script(program: str) -> bool:
    try:
        with open(program, "rb") as file:
            return file.read(2) == b"#!"
    except OSError:  # executable and not readable: the kernel could not run such a script
        return False


def _state_text(path: str) -> str:
    return str(file_state(path))


def _description_of(key: str) -> str:
    return f"{binascii.crc32(key.encode(errors='surrogateescape')):08x}{_SUFFIX}"


def _open_current(folder: CacheFolder, key: str) -> int | None:
    """Return a descriptor of the file stored for `key`; None when there is none, or it is stale."""
    try:
        with folder.open(create=False) as opened:
            return _open_entry(opened, key)
    except (OSError, HostError, ValueError):  # missing, damaged, or not for this user alone
        return None


def _open_entry(folder: PrivateFolder, key: str) -> int:
    """Return a descriptor of the file of an entry. Raises OSError, HostError and ValueError."""
    description = _description_of(key)
    text = folder.read_file(description, _MAX_DESCRIPTION).decode(errors="surrogateescape")
    stored_key, image, size, checksum, *inputs, mark = text.split("\0")
    if (stored_key, mark) != (key, _MARK) or not is_number(image, 32, ".img"):
        raise ValueError("another entry, or none that this module has written")
    if any(_state_text(path) != state for path, state in zip(*[iter(inputs)] * 2, strict=True)):
        raise ValueError("a stale entry")
    descriptor = folder.open_file(image)
    try:
        _check_content(descriptor, int(size), int(checksum))
        os.utime(descriptor, ns=(time.time_ns(), _COMPLETE))  # `_remove_oldest` goes by the first
        folder.use(description)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _check_content(descriptor: int, size: int, checksum: int) -> None:
    """Raise ValueError unless the file is as it was written."""
    status = os.fstat(descriptor)
    if (status.st_size, status.st_mtime_ns) != (size, _COMPLETE):
        raise ValueError("a file that was changed")
    head, tail = os.pread(descriptor, _END, 0), os.pread(descriptor, _END, max(0, size - _END))
    if _checksum(head, tail) != checksum:
        raise ValueError("a damaged file")


def _checksum(head: bytes, tail: bytes) -> int:
    return binascii.crc32(tail, binascii.crc32(head))


def _store(folder: CacheFolder, key: str, entry: CacheEntry, began: float) -> bool:
    """Store an entry; return whether it is there.

    None is stored of which an input changed shortly before `began`, in seconds since 1970.
    """
    states = {path: file_state(path) for path in entry.inputs}
    if any(state and state[-1] > (began - _RECENT) * 1e9 for state in states.values()):
        return False
    content, name = entry.content, name_of(entry.content)
    checksum = _checksum(content[:_END], content[-_END:])
    inputs = (field for path, state in states.items() for field in (path, str(state)))
    fields = (key, name, str(len(content)), str(checksum), *inputs, _MARK)
    description = "\0".join(fields).encode(errors="surrogateescape")
    try:
        with folder.open(create=True) as opened:
            _write_complete(opened, name, content)
            opened.write_file(_description_of(key), description, durable=True)
            _remove_oldest(opened, folder.kept)
    except (OSError, HostError):  # no home, no space, read-only: it is made again the next time
        return False
    return True


def _write_complete(folder: PrivateFolder, name: str, content: bytes) -> None:
    folder.write_file(name, content, durable=True)
    descriptor = folder.open_file(name)
    try:
        os.utime(descriptor, ns=(time.time_ns(), _COMPLETE))
    finally:
        os.close(descriptor)


def _remove_oldest(folder: PrivateFolder, kept: int) -> None:
    """Remove all but the `kept` entries that were used last, and temporary files of crashes."""
    folder.remove_stale_temporaries()
    entries = [
        (status.st_atime_ns, name)
        for name, status in folder.entries()
        if is_entry_name(name) and stat.S_ISREG(status.st_mode)
    ]
    for suffix in (".img", _SUFFIX):
        newest_first = [name for _, name in sorted(entries, reverse=True) if name.endswith(suffix)]
        for name in newest_first[kept:]:
            folder.remove(name)


def _open_in_memory(content: bytes) -> int:
    descriptor = os.memfd_create("initrd")
    with open(descriptor, "wb", closefd=False) as file:
        file.write(content)
    return descriptor
