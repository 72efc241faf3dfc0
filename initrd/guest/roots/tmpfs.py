"""Make the initramfs the root, moved to a tmpfs: root=tmpfs.

A tmpfs, because pivot_root(2) does not work with the initramfs as the root. All files are moved but
those of /init: the program, the directory that it runs from, the command file, and the modules that
it loads. Files that the API mounts (/dev, /run …) hide are moved as well.
"""

import errno

from initrd.errors import reason
from initrd.guest import frozen
from initrd.guest._syscalls import MS_BIND, MS_RDONLY, MS_REMOUNT
from initrd.guest.execute import execute, timed
from initrd.guest.failure import BootError
from initrd.guest.log import Log
from initrd.guest.roots.steps import RemoveDirectory, split_options
from initrd.guest.steps import Mount, Unmount
from initrd.options import COMMAND_FILE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from initrd.guest.kernel import Kernel
    from initrd.options import Root

INITRAMFS = "/run/initramfs"  # the initramfs without its mounts, during the move
_RUNTIME = frozenset((path.strip("/"),) for path in ("/init", frozen.DIRECTORY, COMMAND_FILE))
_PAGE = 4096  # bytes; where pages are larger, the limit is higher than it needs to be
_MODULES = ("usr", "lib", "modules")  # only its files, not its directories of kernel versions


def move_initramfs(root: "Root", target: str, kernel: "Kernel", log: Log) -> None:
    """Mount a tmpfs on `target` and move the files of the initramfs to it. Raises BootError."""
    is_excluded = make_exclusion(target, created_by_init=not kernel.exists(target))
    flags, data = split_options(root.flags)
    # size=100%, no real limit yet: the files to move are in memory already.
    tmpfs = Mount("tmpfs", target, "tmpfs", flags, _join("mode=0755,size=100%", data))
    execute((tmpfs, Mount("/", INITRAMFS, "", MS_BIND)), kernel, log)
    execute((_remount(target, flags, inode_limit(data, kernel.space(target)[0])),), kernel, log)
    timed(
        f"move the initramfs to {target}", lambda: _move(target, is_excluded, kernel), kernel, log
    )
    unmount = Unmount(INITRAMFS, "all of it has been moved"), RemoveDirectory(INITRAMFS)
    execute(unmount, kernel, log)
    flags |= 0 if root.writable else MS_RDONLY
    execute((_remount(target, flags, size_limit(data, *kernel.space(target))),), kernel, log)


def _remount(target: str, flags: int, data: str) -> Mount:
    return Mount("tmpfs", target, "tmpfs", flags | MS_REMOUNT, data)


def make_exclusion(target: str, *, created_by_init: bool) -> "Callable[[tuple[str, ...]], bool]":
    """Return a function that returns whether a path, as a tuple of names, is not moved.

    `target` is not moved either if /init has created it: `created_by_init`.
    """
    init_paths = {*_RUNTIME, tuple(target.strip("/").split("/"))} if created_by_init else _RUNTIME

    def is_excluded(path: tuple[str, ...]) -> bool:
        return path in init_paths or (path[:-1] == _MODULES and ".ko" in path[-1])

    return is_excluded


def inode_limit(options: str, memory: int) -> str:
    """Return the option for the limit on files; empty when `options` have one.

    The limit is one for each page of `memory` bytes. The default of a tmpfs is half of that, and a
    cpio archive may hold more empty files and symbolic links.
    """
    return "" if "nr_inodes=" in options else f"nr_inodes={memory // _PAGE}"


def size_limit(options: str, total: int, free: int) -> str:
    """Return the option for the limit on bytes; empty when `options` have one.

    The limit is the used part of `total` and half of the rest, `free` bytes. For an empty tmpfs
    that is its default limit, half of the memory.
    """
    return "" if "size=" in options else f"size={total - free // 2}"


def _move(target: str, is_excluded: "Callable[[tuple[str, ...]], bool]", kernel: "Kernel") -> None:
    source, destination = kernel.open_directory(INITRAMFS), kernel.open_directory(target)
    try:
        kernel.move_tree(source, destination, is_excluded)
    except OSError as error:
        raise BootError(
            f"cannot move {error.filename} from the initramfs to the tmpfs root",
            reason(error),
            _hint(error),
        ) from error
    finally:
        kernel.close(source)
        kernel.close(destination)


def _hint(error: OSError) -> str:
    if error.errno in (errno.ENOSPC, errno.ENOMEM):
        return "give the machine more memory, or the tmpfs more of it: rootflags=size=, nr_inodes="
    return ""


def _join(*options: str) -> str:
    return ",".join(option for option in options if option)
