"""Moves everything in a directory to another file system, and needs hardly more memory for it.

For a root in memory: a file's old place is freed while it is copied, from its end on, and its name
goes when it has arrived. Works on descriptors from the two directories down, never follows a
symbolic link, never enters another file system. Directories stay behind, empty but for device
nodes: programs may run with a node as their standard input, and neither takes memory.

Kept: contents, owners, modes, times, hard links, device numbers, and names of any bytes. Extended
attributes are not: a cpio archive has none.
"""

import os
import stat

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

CHUNK = 1 << 20  # bytes: what exists twice while a file is copied
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_NOFOLLOW | os.O_CLOEXEC


def move_tree(source: int, target: int, stays: "Callable[[tuple[str, ...]], bool]") -> None:
    """Move what is in the open directory `source` into the open, empty directory `target`.

    `stays` tells by the names from `source` down what is not moved. Raises OSError, with the path
    in it, when something cannot be copied; nothing is lost then, what has been copied excepted.
    """
    _Move(source, target, stays).directory(source, target, ())


class _Move:
    """One move: its two ends, and the hard links that have been met."""

    def __init__(
        self, source: int, target: int, stays: "Callable[[tuple[str, ...]], bool]"
    ) -> None:
        self.device = os.fstat(source).st_dev
        self.target = target
        self.stays = stays
        self.links: dict[int, str] = {}  # the first path of each file that has several

    def directory(self, source: int, target: int, path: tuple[str, ...]) -> None:
        """Move what is in a directory, and give the new one the attributes of the old."""
        status = os.fstat(source)
        with os.scandir(source) as entries:
            found = [(entry.name, entry.stat(follow_symlinks=False)) for entry in entries]
        for name, entry in found:
            if entry.st_dev == self.device and not self.stays((*path, name)):
                self.entry(source, target, (*path, name), entry)
        os.fchown(target, status.st_uid, status.st_gid)
        os.fchmod(target, stat.S_IMODE(status.st_mode))
        os.utime(target, ns=(status.st_atime_ns, status.st_mtime_ns))

    def entry(
        self, source: int, target: int, path: tuple[str, ...], status: os.stat_result
    ) -> None:
        """Move one name, of whatever kind."""
        name, whole = path[-1], "/".join(path)
        try:
            if stat.S_ISDIR(status.st_mode):
                self.enter(source, target, path)
            elif status.st_ino in self.links:
                self.link(self.links[status.st_ino], target, name)
            else:
                _copy(source, target, name, status)
                if status.st_nlink > 1:
                    self.links[status.st_ino] = whole
            if not stat.S_ISDIR(status.st_mode) and not stat.S_ISCHR(status.st_mode):
                os.unlink(name, dir_fd=source)
        except OSError as error:
            if error.filename in (None, name):
                error.filename = f"/{whole}"
            raise

    def enter(self, source: int, target: int, path: tuple[str, ...]) -> None:
        """Make a directory and move into it what the old one holds."""
        name = path[-1]
        os.mkdir(name, 0o700, dir_fd=target)
        old = os.open(name, _DIRECTORY, dir_fd=source)
        try:
            new = os.open(name, _DIRECTORY, dir_fd=target)
            try:
                self.directory(old, new, path)
            finally:
                os.close(new)
        finally:
            os.close(old)

    def link(self, path: str, target: int, name: str) -> None:
        """Give a file that has arrived one more name."""
        os.link(path, name, src_dir_fd=self.target, dst_dir_fd=target, follow_symlinks=False)


def _copy(source: int, target: int, name: str, status: os.stat_result) -> None:
    """Copy what is no directory; a regular file is empty at its old place afterwards."""
    if stat.S_ISREG(status.st_mode):
        _move_contents(source, target, name, status.st_size)
    elif stat.S_ISLNK(status.st_mode):
        os.symlink(os.readlink(name, dir_fd=source), name, dir_fd=target)
    else:
        os.mknod(name, status.st_mode, status.st_rdev, dir_fd=target)
    os.chown(name, status.st_uid, status.st_gid, dir_fd=target, follow_symlinks=False)
    if not stat.S_ISLNK(status.st_mode):  # after chown(2), which clears setuid
        os.chmod(name, stat.S_IMODE(status.st_mode), dir_fd=target)
    times = (status.st_atime_ns, status.st_mtime_ns)
    os.utime(name, ns=times, dir_fd=target, follow_symlinks=False)


def _move_contents(source: int, target: int, name: str, size: int) -> None:
    """Copy a file from its end to its beginning, cutting off what has been copied."""
    old = os.open(name, _FILE | os.O_RDWR, dir_fd=source)
    try:
        new = os.open(name, _FILE | os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600, dir_fd=target)
        try:
            while size:
                start = (size - 1) // CHUNK * CHUNK
                _copy_range(old, new, start, size)
                os.ftruncate(old, start)
                size = start
        finally:
            os.close(new)
    finally:
        os.close(old)


def _copy_range(old: int, new: int, at: int, end: int) -> None:
    while at < end:
        data = os.pread(old, end - at, at)
        if not data:
            raise EOFError(f"a file has become shorter than {end} bytes while it was moved")
        at += os.pwrite(new, data, at)
