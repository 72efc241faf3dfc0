"""The user's templates on disk: find, check, save and remove them.

A template is one file: a line of JSON that describes it, the extents of its memory, the state of
the devices, and the content of the extents. It is written under another name and renamed when it is
complete. It holds the memory of a kernel, so that only its user may read it.
"""

import binascii
import errno
import json
import os
import stat
import struct
import time
from contextlib import contextmanager, nullcontext

from initrd.errors import reason
from initrd.host.system.hosterror import HostError
from initrd.host.system.private import PrivateFolder, is_number
from initrd.host.system.safe_path import UnsafeFolder
from initrd.host.template import memory
from initrd.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from initrd.host.template.make import Snapshot
    from initrd.host.template.memory import Extent

_SUFFIX, _FAILURE_SUFFIX = ".template", ".failure"
_FAILURE_MAX_AGE = 3600.0  # seconds; then another attempt is made
_MAX_HEADER = 1 << 16  # bytes
_EXTENT = struct.Struct("<QQ")
_TEMPORARY_MAX_AGE = 600.0  # seconds; an older temporary file was left by a crash
# What reading a file raises whose content is not what was written.
_DAMAGE = (ValueError, LookupError, TypeError, struct.error, RecursionError)


class StoredTemplate(Record):
    """A template whose file is open and has been checked."""

    file: int
    state: bytes
    extents: "list[Extent]"
    offset: int  # of the content of the extents in the file

    def load(self, memory_file: int) -> bytes:
        """Copy the memory to a new one; return the state of the devices. Raises OSError."""
        memory.load(self.file, self.offset, self.extents, memory_file)
        return self.state

    def close(self) -> None:
        """Close the file."""
        os.close(self.file)


class Store:
    """The templates in one directory."""

    def __init__(self, folder: str, limit: int) -> None:
        """`limit`: bytes of all templates."""
        self._path, self._limit = folder, limit

    def find(self, key: str) -> StoredTemplate | None:
        """Return the template for `key`; None when there is none, or its file cannot be used.

        Such a file is replaced when the template is made again. Raises HostError when another user
        may have access to the directory.
        """
        file = self._open(_file_name(key))
        if file is None:
            return None
        try:
            template = _read(file, key)
            os.utime(file, ns=(time.time_ns(), os.fstat(file).st_mtime_ns))
        except (OSError, *_DAMAGE):
            os.close(file)
            return None
        return template

    @contextmanager
    def lock(self) -> "Iterator[bool]":
        """Yield whether no other process makes a template. Raises HostError."""
        with PrivateFolder.open(self._path, create=True) as folder:
            try:
                lock = folder.lock("lock")
            except OSError as error:
                raise HostError(f"cannot use {self._path}", reason(error)) from error
            with lock or nullcontext():
                yield lock is not None

    def save(self, key: str, snapshot: "Snapshot") -> None:
        """Write a template, and remove the oldest ones beyond the limit. Raises OSError."""
        with PrivateFolder.open(self._path, create=True) as folder:
            folder.remove_stale_temporaries(_TEMPORARY_MAX_AGE)
            with _new_file(folder, _file_name(key)) as file:
                _write(file, key, snapshot)
                size = os.fstat(file).st_size
                if size > self._limit:
                    raise OSError(errno.EDQUOT, f"it has {size} bytes, more than --cache-limit")
            _remove_oldest(folder, self._limit)

    def save_failure(self, key: str, why: str) -> None:
        """Note that no template can be made or used; remove the template. Raises OSError."""
        with PrivateFolder.open(self._path, create=True) as folder:
            folder.remove(_file_name(key))
            with (
                _new_file(folder, _file_name(key, _FAILURE_SUFFIX)) as file,
                open(file, "w", encoding="utf-8", closefd=False) as writer,
            ):
                json.dump({"key": key, "why": why}, writer)  # it is ASCII

    def find_failure(self, key: str) -> str:
        """Return why no template could be made a short time ago; empty for no failure.

        Raises HostError when another user may have access to the directory.
        """
        file = self._open(_file_name(key, _FAILURE_SUFFIX))
        if file is None:
            return ""
        try:
            with open(file, encoding="utf-8") as reader:
                age = time.time() - os.fstat(file).st_mtime
                failure = json.load(reader)
            return str(failure["why"]) if failure["key"] == key and age < _FAILURE_MAX_AGE else ""
        except (OSError, *_DAMAGE):
            return ""

    def _open(self, name: str) -> int | None:
        """Return a descriptor of a file; None when there is none that can be used."""
        try:
            with PrivateFolder.open(self._path, create=False) as folder:
                try:
                    return folder.open_file(name)
                except UnsafeFolder:  # only this user can have put it there
                    return None
        except OSError:  # it does not exist, or it cannot be read
            return None


@contextmanager
def _new_file(folder: PrivateFolder, name: str) -> "Iterator[int]":
    """Yield a descriptor of a file that gets its name when the `with` ends without an error."""
    file, temporary = folder.create_temporary()
    try:
        yield file
        # Not durable: after a crash of the host, as after each boot, the key is another one.
        folder.commit(temporary, name, durable=False)
    except BaseException:
        folder.remove(temporary)
        raise
    finally:
        os.close(file)


def find_store_problem(path: str) -> str:
    """Return why templates cannot be kept in a directory; empty when they can."""
    try:
        with PrivateFolder.open(path, create=False):
            return ""
    except FileNotFoundError:  # it will be made
        return ""
    except HostError as error:
        return f"{error.what}: {error.why}"


def _file_name(key: str, suffix: str = _SUFFIX) -> str:
    return f"{binascii.crc32(key.encode(errors='surrogateescape')):08x}{suffix}"


def _write(file: int, key: str, snapshot: "Snapshot") -> None:
    extents = memory.find_extents(snapshot.memory)
    table = b"".join(_EXTENT.pack(*extent) for extent in extents)
    now = time.time_ns()
    changed = now - now % 10**9  # whole seconds, which every file system keeps
    content_size = sum(length for _, length in extents)
    header = {
        "key": key,
        "changed": changed,  # time of the file's last change: another one means a changed file
        "extents": len(extents),
        "state": len(snapshot.state),
        "content": content_size,
        "checksum": binascii.crc32(table + snapshot.state),
    }
    head = json.dumps(header).encode() + b"\n" + table + snapshot.state
    with open(file, "wb", closefd=False) as writer:
        writer.write(head)
    memory.save(snapshot.memory, extents, file)
    os.utime(file, ns=(now, changed))


def _read(file: int, key: str) -> StoredTemplate:
    """Return a template after checking its file. Raises OSError and _DAMAGE."""
    status = os.fstat(file)
    with open(file, "rb", closefd=False) as reader:
        line = reader.readline(_MAX_HEADER)
        header = json.loads(line)
        # Damaged numbers may be larger than any memory.
        table = reader.read(min(header["extents"] * _EXTENT.size, status.st_size))
        state = reader.read(min(header["state"], status.st_size))
    offset = len(line) + len(table) + len(state)
    expected = (key, status.st_mtime_ns, status.st_size, binascii.crc32(table + state))
    found = (header["key"], header["changed"], offset + header["content"], header["checksum"])
    if found != expected:
        raise ValueError("another template, or a damaged one")
    return StoredTemplate(file, state, list(_EXTENT.iter_unpack(table)), offset)


def _remove_oldest(folder: PrivateFolder, limit: int) -> None:
    """Remove the templates that were used the longest time ago, beyond `limit` bytes."""
    templates = [
        (status, name)
        for name, status in folder.entries()
        if is_number(name, 8, _SUFFIX) and stat.S_ISREG(status.st_mode)
    ]
    total = 0
    for status, name in sorted(templates, key=lambda entry: -entry[0].st_atime_ns):
        total += status.st_blocks * 512
        if total > limit:
            folder.remove(name)
