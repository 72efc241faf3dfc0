"""Images that were made before, in the user's cache: never stale, safe with many users at once.

An image is kept with the state of every file that went into it: what changes one of them, even
without changing its size and its time of modification, changes its ctime, and the image is made
anew. Every file here appears by renaming, and an image is used through its descriptor: so it does
not matter who replaces or removes what at the same time.
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

KEPT = 8  # images
_CRASHED = 3600.0  # seconds; a temporary file that is older was left by a crash
_RACY = 2.0  # seconds; a file changed so recently may change again without a new ctime
State = list[int]


def replace_file(path: str, content: bytes, mode: int = 0o666) -> None:
    """Put `content` in the place of the file `path`, whoever else does so at the same time.

    Raises OSError. Nothing is left of a file that could not be written, also after Ctrl-C.
    """
    temporary = os.path.join(os.path.dirname(path), f".{os.urandom(8).hex()}.tmp")
    try:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        with open(os.open(temporary, flags, mode), "wb") as file:
            file.write(content)
        os.replace(temporary, path)
    except BaseException:
        _remove(temporary)
        raise


def _remove(path: str) -> None:
    try:
        os.unlink(path)
    except FileNotFoundError:  # it had not come that far
        pass


class CacheEntry(Record):
    """What was made: the image, and the paths of all that it was made from."""

    content: bytes
    inputs: tuple[str, ...]  # also those that were looked for and do not exist


def open_cached(
    folder: str,
    key: str,
    make: "Callable[[], CacheEntry]",
    clock: "Callable[[], float]" = time.time,
    kept: int = KEPT,
) -> int:
    """Return a descriptor of the image that `make` returns, or returned before for this key.

    The folder holds no more than the `kept` images that were used last.
    """
    name = os.path.join(folder, f"{binascii.crc32(key.encode(errors='surrogateescape')):08x}")
    if not _is_ours(folder):
        return _in_memory(make().content)
    found = _open_known(name, key)
    if found is not None:
        return found
    began = clock()
    image = make()
    _remember(name, key, image, began, kept)
    found = _open_known(name, key)
    return _in_memory(image.content) if found is None else found


def _is_ours(folder: str) -> bool:
    """Tell whether nobody else can put an image there: as with another user's $HOME, under sudo."""
    try:
        return os.stat(folder).st_uid == os.geteuid()
    except OSError:  # it is not there yet
        return True


def _open_known(name: str, key: str) -> int | None:
    """Return a descriptor of the image kept for a key, if nothing that went into it has changed."""
    try:
        with open(f"{name}.json", encoding="utf-8") as file:
            known = json.load(file)
        if known["key"] != key or any(
            _state(path) != state for path, state in known["inputs"].items()
        ):
            return None
        descriptor = os.open(known["image"], os.O_RDONLY | os.O_CLOEXEC)
        for path in (known["image"], f"{name}.json"):
            os.utime(path)  # the oldest are removed
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return None  # not there, or not written by us
    return descriptor


def _remember(name: str, key: str, image: CacheEntry, began: float, kept: int) -> None:
    folder = os.path.dirname(name)
    states = {path: _state(path) for path in image.inputs}
    if any(state and state[-1] > (began - _RACY) * 1e9 for state in states.values()):
        return
    path = os.path.join(folder, f"{_digest(image.content)}.img")
    note = json.dumps({"key": key, "image": path, "inputs": states})
    try:
        os.makedirs(folder, mode=0o700, exist_ok=True)
        replace_file(path, image.content)
        replace_file(f"{name}.json", note.encode())
        _forget_oldest(folder, kept)
    except OSError:  # no home, no space, read-only: then it is made again the next time
        pass


def _state(path: str) -> "State | None":
    """Return what changes whenever the file does; None when there is no such file."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return [found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns]


def _forget_oldest(folder: str, kept: int) -> None:
    """Remove all but the images that were used last, and what crashes have left."""
    newest: list[tuple[int, str]] = []
    with os.scandir(folder) as entries:
        for entry in entries:
            changed = entry.stat().st_mtime_ns
            if entry.name.endswith((".img", ".json")):
                newest.append((changed, entry.path))
            elif changed < (time.time() - _CRASHED) * 1e9:
                os.unlink(entry.path)
    for suffix in (".img", ".json"):
        alike = [path for _, path in sorted(newest, reverse=True) if path.endswith(suffix)]
        for path in alike[kept:]:
            os.unlink(path)


def _digest(content: bytes) -> str:
    import hashlib  # noqa: PLC0415 - a long import, which an image that is kept does without

    return hashlib.blake2b(content, digest_size=16).hexdigest()


def _in_memory(content: bytes) -> int:
    descriptor = os.memfd_create("initrd")
    with open(descriptor, "wb", closefd=False) as file:
        file.write(content)
    return descriptor


def save_file(content: bytes, output: str) -> None:
    """Write `content` to the file `output`, or to standard output for `-`.

    A symbolic link is followed; what was there stays until its successor is complete. Raises
    HostError for what is neither a regular file nor missing, and when writing fails.
    """
    if output == "-":
        _print(content)
        return
    target = os.path.realpath(output)
    _check(output, target)
    try:
        replace_file(target, content)
    except OSError as error:
        raise HostError(f"cannot write {output}", reason(error)) from error


def check_writable(output: str) -> None:
    """Raise HostError when it can be told already that `save` will fail."""
    if output == "-":
        return
    target = os.path.realpath(output)
    _check(output, target)
    folder = os.path.dirname(target)
    if not os.access(folder, os.W_OK | os.X_OK):
        why = "it is not for this user to write to" if os.path.isdir(folder) else "it is not there"
        raise HostError(f"cannot write {output}", f"the directory {folder}: {why}")


def _print(content: bytes) -> None:
    if sys.stdout.isatty():
        raise HostError("cannot write to standard output", "it is a terminal", "a file, or a pipe")
    try:
        sys.stdout.buffer.write(content)
        sys.stdout.buffer.flush()
    except OSError as error:
        raise HostError("cannot write to standard output", reason(error)) from error


def _check(output: str, target: str) -> None:
    """Refuse to put a file in the place of a directory or a device (as root, of /dev/null)."""
    try:
        fitting = stat.S_ISREG(os.stat(target).st_mode)
    except FileNotFoundError:
        fitting = True
    except OSError as error:
        raise HostError(f"cannot write {output}", reason(error)) from error
    if not fitting or output.endswith("/"):
        raise HostError(
            f"cannot write {output}", "it is no regular file", "the name of a file, or -"
        )


def resolve_in_root(root: str, path: str) -> str:
    """Return where `path` leads when `root` is `/`; empty when that does not exist.

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


class OpenFile(Record):
    """A file that a program started here reads: by its path, or by a descriptor that it inherits."""

    path: str
    descriptor: int = -1  # -1: the program opens the path itself

    @property
    def is_open(self) -> bool:
        """Whether there is a descriptor of it."""
        return self.descriptor >= 0

    @property
    def inherited_path(self) -> str:
        """The path by which a program finds the file that has inherited the descriptor."""
        return f"/proc/self/fd/{self.descriptor}" if self.is_open else self.path


def name_open_file(descriptor: int, nameless: str) -> OpenFile:
    """Return the file that is open as `descriptor`; `nameless` stands in for a path it lacks."""
    path = os.readlink(f"/proc/self/fd/{descriptor}")
    return OpenFile(path if os.path.exists(path) else nameless, descriptor)
