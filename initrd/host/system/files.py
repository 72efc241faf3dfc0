"""Write files atomically, cache generated files, and resolve paths inside a root directory.

`replace_file` and `save_file` write a temporary file and rename it, so that a reader never finds a
file that is half written.

`open_cached` keeps entries in a directory of the user: generated files, each with the state of its
inputs, the files that it was made from. A changed input has another ctime, even when its size and
its time of modification are the same, and the entry is then made again. Processes may use the cache
at the same time: a generated file is used through its descriptor, which stays valid when another
process replaces or removes the file.
"""

import binascii
import json
import os
import stat
import sys
import time

from initrd.errors import HostError, reason
from initrd.inroot import resolve
from initrd.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

ENTRIES_KEPT = 8
_TEMPORARY_MAX_AGE = 3600.0  # seconds; an older temporary file was left by a crash
_RECENT = 2.0  # seconds; a file changed so recently may change again without a new ctime
FileState = list[int]


def replace_file(path: str, content: bytes, mode: int = 0o666) -> None:
    """Replace the file `path` by one with `content`, atomically.

    Several processes may do so at the same time. Raises OSError. No temporary file is left when
    writing fails or is interrupted by Ctrl-C.
    """
    temporary = os.path.join(os.path.dirname(path), f".{os.urandom(8).hex()}.tmp")
    try:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        with open(os.open(temporary, flags, mode), "wb") as file:
            file.write(content)
        os.replace(temporary, path)
    except BaseException:
        _remove_if_exists(temporary)
        raise


def make_private_folder(path: str) -> None:
    """Make a directory and its missing parents, all of them for this user only. Raises OSError.

    os.makedirs() gives the mode to the last one only; the others would depend on the umask.
    """
    if not os.path.isdir(path):
        make_private_folder(os.path.dirname(path))
        try:
            os.mkdir(path, 0o700)
        except FileExistsError:  # another process has made it
            pass


class OpenFile(Record):
    """A file that a child process reads: by its path, or by a descriptor that it inherits."""

    path: str
    descriptor: int = -1  # -1: the child process opens the path

    @property
    def is_open(self) -> bool:
        """Whether there is a descriptor of it."""
        return self.descriptor >= 0

    @property
    def inherited_path(self) -> str:
        """The path by which a process that has inherited the descriptor opens the file."""
        return f"/proc/self/fd/{self.descriptor}" if self.is_open else self.path


def name_open_file(descriptor: int, unnamed: str) -> OpenFile:
    """Return the file that is open as `descriptor`; its path is `unnamed` where it has none."""
    path = os.readlink(f"/proc/self/fd/{descriptor}")
    return OpenFile(path if os.path.exists(path) else unnamed, descriptor)


def save_file(content: bytes, output: str) -> None:
    """Write `content` to the file `output`, or to standard output for `-`.

    A symbolic link is followed; an existing file stays until its successor is complete. Raises
    HostError when `output` exists and is no regular file, and when writing fails.
    """
    if output == "-":
        _write_stdout(content)
        return
    target = os.path.realpath(output)
    _check_replaceable(output, target)
    try:
        replace_file(target, content)
    except OSError as error:
        raise HostError(f"cannot write {output}", reason(error)) from error


def check_writable(output: str) -> None:
    """Raise HostError when it is already certain that `save_file` will fail."""
    if output == "-":
        return
    target = os.path.realpath(output)
    _check_replaceable(output, target)
    folder = os.path.dirname(target)
    if not os.access(folder, os.W_OK | os.X_OK):
        why = "it is not for this user to write to" if os.path.isdir(folder) else "it is not there"
        raise HostError(f"cannot write {output}", f"the directory {folder}: {why}")


def resolve_in_root(root: str, path: str) -> str:
    """Return the file that `path` names when `root` is `/`; empty when it does not exist.

    The result is a path on the host without symbolic links below `root`. Raises HostError when
    the links form a circle or a directory cannot be searched.
    """

    def read_link(inside: str) -> str:
        link = root + inside
        return os.readlink(link) if stat.S_ISLNK(os.lstat(link).st_mode) else ""

    try:
        return os.path.join(root, resolve(path, read_link).lstrip("/"))
    except (FileNotFoundError, NotADirectoryError):
        return ""
    except OSError as error:
        raise HostError(f"cannot follow {path} in {root}", reason(error)) from error


class CacheEntry(Record):
    """The content of a generated file, and the paths of all files that it was made from."""

    content: bytes
    inputs: tuple[str, ...]  # also the paths that were tried and do not exist


def open_cached(
    folder: str,
    key: str,
    make: "Callable[[], CacheEntry]",
    clock: "Callable[[], float]" = time.time,
    kept: int = ENTRIES_KEPT,
) -> int:
    """Return a descriptor of the file for `key`: from the cache in `folder`, or from `make`.

    The folder holds no more than the `kept` entries that were used last. An entry that cannot be
    stored there is in memory only.
    """
    name = os.path.join(folder, f"{binascii.crc32(key.encode(errors='surrogateescape')):08x}")
    if not _is_own_folder(folder):
        return _open_in_memory(make().content)
    descriptor = _open_current(name, key)
    if descriptor is not None:
        return descriptor
    began = clock()
    entry = make()
    _store(name, key, entry, began, kept)
    descriptor = _open_current(name, key)
    return _open_in_memory(entry.content) if descriptor is None else descriptor


def _remove_if_exists(path: str) -> None:
    try:
        os.unlink(path)
    except FileNotFoundError:  # creating the file had failed
        pass


def _write_stdout(content: bytes) -> None:
    if sys.stdout.isatty():
        raise HostError("cannot write to standard output", "it is a terminal", "a file, or a pipe")
    try:
        sys.stdout.buffer.write(content)
        sys.stdout.buffer.flush()
    except OSError as error:
        raise HostError("cannot write to standard output", reason(error)) from error


def _check_replaceable(output: str, target: str) -> None:
    """Raise HostError unless `target` is a regular file or missing.

    Without this check root would replace a device such as /dev/null by a file.
    """
    try:
        replaceable = stat.S_ISREG(os.stat(target).st_mode)
    except FileNotFoundError:
        replaceable = True
    except OSError as error:
        raise HostError(f"cannot write {output}", reason(error)) from error
    if not replaceable or output.endswith("/"):
        raise HostError(
            f"cannot write {output}", "it is no regular file", "the name of a file, or -"
        )


def _is_own_folder(folder: str) -> bool:
    """Return whether the folder belongs to this user, or does not exist yet.

    The owner of another user's folder ($HOME under sudo) could place files there.
    """
    try:
        return os.stat(folder).st_uid == os.geteuid()
    except OSError:  # it does not exist yet
        return True


def _open_current(name: str, key: str) -> int | None:
    """Return a descriptor of the file stored for `key`; None when there is none, or it is stale.

    `name` is the path of the cache's files for this key, without a suffix.
    """
    try:
        with open(f"{name}.json", encoding="utf-8") as file:
            stored = json.load(file)
        if stored["key"] != key or any(
            file_state(path) != state for path, state in stored["inputs"].items()
        ):
            return None
        descriptor = os.open(stored["image"], os.O_RDONLY | os.O_CLOEXEC)
        for path in (stored["image"], f"{name}.json"):
            os.utime(path)  # `_remove_oldest` goes by this time
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return None  # missing, or not written by `_store`
    return descriptor


def _store(name: str, key: str, entry: CacheEntry, began: float, kept: int) -> None:
    """Store an entry, unless an input changed shortly before `began` (seconds since 1970)."""
    folder = os.path.dirname(name)
    states = {path: file_state(path) for path in entry.inputs}
    if any(state and state[-1] > (began - _RECENT) * 1e9 for state in states.values()):
        return
    path = os.path.join(folder, name_of(entry.content))
    description = json.dumps({"key": key, "image": path, "inputs": states})
    try:
        make_private_folder(folder)
        replace_file(path, entry.content)
        replace_file(f"{name}.json", description.encode())
        _remove_oldest(folder, kept)
    except OSError:  # no home, no space, read-only: the entry is made again the next time
        pass


def file_state(path: str) -> "FileState | None":
    """Return numbers of which one changes whenever the file does; None when it does not exist."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return [status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns]


def _remove_oldest(folder: str, kept: int) -> None:
    """Remove all but the `kept` entries that were used last, and temporary files of crashes."""
    stored: list[tuple[int, str]] = []
    with os.scandir(folder) as entries:
        for entry in entries:
            changed = entry.stat().st_mtime_ns
            if entry.name.endswith((".img", ".json")):
                stored.append((changed, entry.path))
            elif changed < (time.time() - _TEMPORARY_MAX_AGE) * 1e9:
                os.unlink(entry.path)
    for suffix in (".img", ".json"):
        newest_first = [path for _, path in sorted(stored, reverse=True) if path.endswith(suffix)]
        for path in newest_first[kept:]:
            os.unlink(path)


def name_of(content: bytes) -> str:
    """Return the name of a file with this content in the cache: a digest of it."""
    import hashlib  # noqa: PLC0415 - a slow import, not needed for an entry from the cache

    return hashlib.blake2b(content, digest_size=16).hexdigest() + ".img"


def _open_in_memory(content: bytes) -> int:
    descriptor = os.memfd_create("initrd")
    with open(descriptor, "wb", closefd=False) as file:
        file.write(content)
    return descriptor
