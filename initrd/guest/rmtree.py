"""Deletes everything in a directory, and nothing else: how the memory of the initramfs is freed.

Works on descriptors from the directory down, so that no name can lead elsewhere meanwhile; never
follows a symbolic link; never enters another file system.
"""

import posix as os  # what `os` is made of: importing `os` itself would double the imports' cost
from _stat import S_ISDIR

# Standard input, output and error of PID 1 are this node, and stay it, as in a boot without initrd.
KEPT = frozenset({("dev", "console")})


def remove_contents(directory: int, path: tuple[str, ...] = ()) -> None:
    """Delete what is in an open directory, on its own file system only, following no links.

    `path` are the names from the old root down to here. What lies on another device is left alone,
    and so is its directory.
    """
    device = os.fstat(directory).st_dev
    with os.scandir(directory) as entries:
        found = [(entry.name, entry.stat(follow_symlinks=False)) for entry in entries]
    for name, status in found:
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
            return  # a mount: stat(2) above saw what lies below it
        remove_contents(child, (*path, name))
        left = os.listdir(child)
    finally:
        os.close(child)
    if not left:
        os.rmdir(name, dir_fd=directory)
