"""Delete the contents of a directory, which frees the memory of the initramfs.

Each directory is opened relative to the descriptor of its parent, so that a path which changes
meanwhile cannot redirect the deletion. Symbolic links are not followed; other file systems are not
entered.
"""

import posix as os  # importing `os` would double the time that all imports take
from _stat import S_ISDIR

# Paths that are not deleted: the kernel opened /dev/console as descriptors 0, 1 and 2 of PID 1.
KEPT = frozenset({("dev", "console")})


def remove_contents(directory: int, path: tuple[str, ...] = ()) -> None:
    """Delete the contents of an open directory, without following links. Raises OSError.

    `path` is the path of the directory from the old root, as a tuple of names. A file on another
    device is not deleted, and neither are the directories above it.
    """
    device = os.fstat(directory).st_dev
    with os.scandir(directory) as entries:
        children = [(entry.name, entry.stat(follow_symlinks=False)) for entry in entries]
    for name, status in children:
        if status.st_dev == device and (*path, name) not in KEPT:
            _delete(directory, name, path, is_directory=S_ISDIR(status.st_mode))


def _delete(directory: int, name: str, path: tuple[str, ...], *, is_directory: bool) -> None:
    if not is_directory:
        os.unlink(name, dir_fd=directory)
        return
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    child = os.open(name, flags, dir_fd=directory)
    try:
        if os.fstat(child).st_dev != os.fstat(directory).st_dev:
            return  # a mount point: the stat(2) above reported the directory below the mount
        remove_contents(child, (*path, name))
        remaining = os.listdir(child)
    finally:
        os.close(child)
    if not remaining:
        os.rmdir(name, dir_fd=directory)
