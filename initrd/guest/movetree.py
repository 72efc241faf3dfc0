"""Move the contents of a directory to another file system with little additional memory.

For a root in memory: while a file is copied, from its end to its beginning, the source is truncated
chunk by chunk; after the copy it is unlinked. Directories are opened relative to the descriptors of
their parents; symbolic links are not followed, other file systems are not entered. Source
directories and character devices remain: a program may run with a device as its standard input, and
neither takes memory.

Preserved: contents, owners, modes, times, hard links, device numbers, and names of any bytes.
Extended attributes are not: a cpio archive has none.
"""

import os
import stat

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

CHUNK = 1 << 20  # bytes; at most so much of a file exists twice
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_NOFOLLOW | os.O_CLOEXEC


def move_tree(source: int, target: int, is_excluded: "Callable[[tuple[str, ...]], bool]") -> None:
    """Move the contents of the open directory `source` into the open, empty directory `target`.

    `is_excluded` is called with each path below `source`, a tuple of names, and returns whether the
    path is not moved. Raises OSError with the path when a file cannot be copied. All data is then
    in `source` or in `target`.
    """
    _TreeMove(source, target, is_excluded).move_contents(source, target, ())


class _TreeMove:
    """The state of one move: the target, and the files with several hard links."""

    def __init__(
        self, source: int, target: int, is_excluded: "Callable[[tuple[str, ...]], bool]"
    ) -> None:
        self.device = os.fstat(source).st_dev
        self.target = target
        self.is_excluded = is_excluded
        self.links: dict[int, str] = {}  # inode number to the first path, of files with several

    def move_contents(self, source: int, target: int, path: tuple[str, ...]) -> None:
        """Move the contents of a directory, then copy its owner, mode and times."""
        status = os.fstat(source)
        with os.scandir(source) as entries:
            children = [(entry.name, entry.stat(follow_symlinks=False)) for entry in entries]
        for name, entry in children:
            if entry.st_dev == self.device and not self.is_excluded((*path, name)):
                self.move_entry(source, target, (*path, name), entry)
        os.fchown(target, status.st_uid, status.st_gid)
        os.fchmod(target, stat.S_IMODE(status.st_mode))
        os.utime(target, ns=(status.st_atime_ns, status.st_mtime_ns))

    def move_entry(
        self, source: int, target: int, path: tuple[str, ...], status: os.stat_result
    ) -> None:
        """Move one directory entry of any file type."""
        name, full_path = path[-1], "/".join(path)
        try:
            if stat.S_ISDIR(status.st_mode):
                self.move_directory(source, target, path)
            elif status.st_ino in self.links:
                self.link(self.links[status.st_ino], target, name)
            else:
                _copy_entry(source, target, name, status)
                if status.st_nlink > 1:
                    self.links[status.st_ino] = full_path
            if not stat.S_ISDIR(status.st_mode) and not stat.S_ISCHR(status.st_mode):
                os.unlink(name, dir_fd=source)
        except OSError as error:
            if error.filename in (None, name):
                error.filename = f"/{full_path}"
            raise

    def move_directory(self, source: int, target: int, path: tuple[str, ...]) -> None:
        """Create a directory in the target and move the contents of the source directory."""
        name = path[-1]
        os.mkdir(name, 0o700, dir_fd=target)
        old = os.open(name, _DIRECTORY, dir_fd=source)
        try:
            new = os.open(name, _DIRECTORY, dir_fd=target)
            try:
                self.move_contents(old, new, path)
            finally:
                os.close(new)
        finally:
            os.close(old)

    def link(self, path: str, target: int, name: str) -> None:
        """Create a further hard link to a file that has been moved to `path`."""
        os.link(path, name, src_dir_fd=self.target, dst_dir_fd=target, follow_symlinks=False)


def _copy_entry(source: int, target: int, name: str, status: os.stat_result) -> None:
    """Copy an entry that is not a directory. A regular file at the source is empty afterwards."""
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
    """Copy a file from its end to its beginning, truncating the source after each chunk."""
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


def _copy_range(old: int, new: int, offset: int, end: int) -> None:
    while offset < end:
        data = os.pread(old, end - offset, offset)
        if not data:
            raise EOFError(f"a file has become shorter than {end} bytes while it was moved")
        offset += os.pwrite(new, data, offset)
