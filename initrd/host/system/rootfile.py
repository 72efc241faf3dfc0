"""Find and read files of a root directory that nobody has to trust.

A root directory is often an unpacked container image. Its symbolic links must not lead to other
files of the host, a FIFO or a device in the place of a file must not be opened, and no file may
fill the memory. A program in it may change it meanwhile.

`find_in_root` resolves a path as the kernel does after chroot(2). Its result has no symbolic link.
The kernel does this itself with openat2(2), where that is known and allowed: not before Linux 5.6,
nor in containers whose filter of system calls is older.

`open_file` opens such a path only while it has none. The file is first opened with O_PATH, which
never blocks and does not reach a device; it is checked, and then opened by its descriptor. So the
file that is read is the one that was checked. A file that the user has named may be anywhere and
its links are followed, but it is checked in the same way.

Sources: path_resolution(7), openat2(2), O_PATH in open(2), proc_pid_fd(5).
"""

import errno
import os
import stat
from itertools import islice

from initrd.errors import reason
from initrd.host.system.hosterror import HostError
from initrd.host.system.syscalls import find_beneath
from initrd.inroot import resolve
from initrd.record import Record


class SizeLimit(Record):
    """The most bytes that files of one kind may have."""

    size: int
    kind: str


# Lists: twice those of a kernel with all of Linux built in. A module with its debug information has
# some 100 MiB, a distribution's uncompressed kernel 60 MiB. An image has to fit into a guest.
SMALL_FILE = SizeLimit(1 << 20, "a small text file")
MODULE_LIST = SizeLimit(16 << 20, "a list of modules")
MODULE = SizeLimit(256 << 20, "a module")
KERNEL = SizeLimit(256 << 20, "a kernel")
PROGRAM = SizeLimit(256 << 20, "the program /init")
IMAGE = SizeLimit(1 << 30, "an image")

MAX_ENTRIES = 10_000  # of a directory that is listed; the largest have some hundred kernels
_MAX_PATH = 4096  # bytes: PATH_MAX of the kernel
_CHUNK = 4 << 20  # bytes read at a time
_MAX_STEPS = 1000  # directories and links that one path leads through
# Errors of openat2(2): it is unknown, or a filter of system calls refuses it; or something was
# renamed during a step to `..`, or a signal came.
_NO_OPENAT2 = (errno.ENOSYS, errno.EPERM, errno.EAGAIN, errno.EINTR)
_KINDS = {
    stat.S_IFIFO: "a named pipe",
    stat.S_IFCHR: "a character device",
    stat.S_IFBLK: "a block device",
    stat.S_IFSOCK: "a socket",
    stat.S_IFLNK: "a symbolic link",
}


def find_in_root(root: str, path: str) -> str:
    """Return the file that `path` names when `root` is `/`; empty when it does not exist.

    The result is a path on the host without symbolic links. Raises HostError when the links form a
    circle, a directory cannot be searched, or the path is too long or has a NUL byte.
    """
    try:
        _check_path(path)
        directory = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            return _find_beneath(directory, path).rstrip("/") or "/"
        finally:
            os.close(directory)
    except (FileNotFoundError, NotADirectoryError):
        return ""
    except OSError as error:
        what = f"cannot follow {_shorten(path)} in {root}"
        raise HostError(what, reason(error)) from error


def open_file(path: str, limit: SizeLimit | None = None, *, follow: bool = False) -> int:
    """Return a descriptor of the regular file `path`, open for reading. It never blocks.

    `path` is a result of `find_in_root`. `follow`: the user has named it, so its links are
    followed. Raises HostError for a file of another kind, for one above the limit, and when `path`
    has got a link meanwhile; and OSError, also for a directory.
    """
    _check_path(path)
    place = os.open(path, os.O_PATH | os.O_CLOEXEC | (0 if follow else os.O_NOFOLLOW))
    try:
        return _open_regular(place, path, limit, follow=follow)
    finally:
        os.close(place)


def read_file(path: str, limit: SizeLimit, *, follow: bool = False) -> bytes:
    """Return the content of a file. Raises the errors of `open_file`."""
    return _read_all(open_file(path, limit, follow=follow), path, limit)


def read_head(path: str, size: int, *, follow: bool = False) -> bytes:
    """Return the first bytes of a file, at most `size`. Raises the errors of `open_file`."""
    descriptor = open_file(path, follow=follow)
    try:
        return os.pread(descriptor, size, 0)
    finally:
        os.close(descriptor)


def read_input(path: str, limit: SizeLimit) -> bytes:
    """Return the content of a file that the user has named, or of a pipe of this process.

    Such a pipe is `/dev/stdin`, or what a shell makes of `<(command)`: it has no name in a file
    system. It is read to its end. Raises the errors of `open_file`.
    """
    place = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        if os.readlink(_link_of(place)).startswith("pipe:["):
            opened = os.open(_link_of(place), os.O_RDONLY | os.O_CLOEXEC)
        else:
            opened = _open_regular(place, path, limit, follow=True)
    finally:
        os.close(place)
    return _read_all(opened, path, limit)


def list_directory(path: str) -> list[str]:
    """Return the names in the directory `path`, a result of `find_in_root`.

    Raises HostError for a directory with more than MAX_ENTRIES, and OSError.
    """
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    directory = os.open(path, flags)
    try:
        _check_unmoved(directory, path)
        with os.scandir(directory) as entries:
            names = [entry.name for entry in islice(entries, MAX_ENTRIES + 1)]
    finally:
        os.close(directory)
    if len(names) > MAX_ENTRIES:
        raise HostError(f"cannot use {path}", f"it has more than {MAX_ENTRIES} entries")
    return names


def _open_regular(place: int, path: str, limit: SizeLimit | None, *, follow: bool) -> int:
    """Return a descriptor for reading of a file that is open with O_PATH, after all checks."""
    _check_file(place, path, limit)
    if not follow:
        _check_unmoved(place, path)
    return os.open(_link_of(place), os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)


def _read_all(descriptor: int, path: str, limit: SizeLimit) -> bytes:
    """Return all that there is to read, and close the descriptor. Raises HostError."""
    chunks, total = [], 0
    with open(descriptor, "rb", buffering=0) as file:
        while chunk := file.read(_CHUNK):
            chunks.append(chunk)
            total += len(chunk)
            if total > limit.size:
                raise _too_large(path, limit)
    return chunks[0] if len(chunks) == 1 else b"".join(chunks)


def _check_path(path: str) -> None:
    if "\0" in path:
        raise OSError(errno.EINVAL, "the name has a NUL byte")
    if len(path) > _MAX_PATH:
        raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG))


def _shorten(path: str) -> str:
    return path if len(path) <= _MAX_PATH else f"{path[:100]}…"


def _find_beneath(directory: int, path: str) -> str:
    """Return the path without links of a file beneath an open directory. Raises OSError."""
    try:
        place = find_beneath(directory, os.fsencode(path) or b".")
    except OSError as error:
        if error.errno not in _NO_OPENAT2:
            raise
        return _resolve_beneath(os.readlink(_link_of(directory)).rstrip("/"), path)
    try:
        return os.readlink(_link_of(place))
    finally:
        os.close(place)


def _resolve_beneath(top: str, path: str) -> str:
    """Do what `_find_beneath` does, without openat2(2). `top` is the path of the directory."""
    steps = 0

    def read_link(inside: str) -> str:
        nonlocal steps
        steps += 1
        if steps > _MAX_STEPS:
            raise OSError(errno.ELOOP, "it leads through too many directories")
        link = top + inside
        return os.readlink(link) if stat.S_ISLNK(os.lstat(link).st_mode) else ""

    return top + resolve(path, read_link)


def _link_of(descriptor: int) -> str:
    return f"/proc/self/fd/{descriptor}"


def _check_file(descriptor: int, path: str, limit: SizeLimit | None) -> None:
    """Raise HostError unless this is a regular file within the limit; OSError for a directory."""
    status = os.fstat(descriptor)
    if stat.S_ISDIR(status.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
    if not stat.S_ISREG(status.st_mode):
        kind = _KINDS.get(stat.S_IFMT(status.st_mode), "one of another kind")
        raise HostError(f"cannot read {path}", f"it is no regular file but {kind}")
    if limit and status.st_size > limit.size:
        raise _too_large(path, limit)


def _check_unmoved(descriptor: int, path: str) -> None:
    """Raise HostError unless the file is still at `path`: a link would have led elsewhere."""
    if os.readlink(_link_of(descriptor)) != path:
        why = "it was moved, or its path has got a symbolic link, while it was looked up"
        raise HostError(f"cannot read {path}", why)


def _too_large(path: str, limit: SizeLimit) -> HostError:
    why = f"it has more than {limit.size >> 20} MiB, which is the limit for {limit.kind}"
    return HostError(f"cannot read {path}", why)
