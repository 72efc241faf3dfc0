"""Makes the initramfs itself the root, on a tmpfs: pivot_root(2) does not work out of an initramfs.

What it holds is moved, not what belongs to /init: the program, what it runs from, its command,
and the modules that it loads. What it holds below the API mounts (/dev, /run …) is moved as well.
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

INITRAMFS = "/run/initramfs"  # the initramfs without what is mounted on it, while it is moved
_RUNTIME = frozenset((path.strip("/"),) for path in ("/init", frozen.DIRECTORY, COMMAND_FILE))
_PAGE = 4096  # bytes; with larger ones the limit is only more generous
_MODULES = ("usr", "lib", "modules")  # the files in it, not the directories of a kernel version


def move_initramfs(root: "Root", target: str, kernel: "Kernel", log: Log) -> None:
    """Mount a tmpfs on `target` and move what the initramfs holds to it. Raises BootError."""
    stays = stays_behind(target, made_for_us=not kernel.exists(target))
    flags, data = split_options(root.flags)
    # No limit yet: what is there now is in memory already.
    whole = Mount("tmpfs", target, "tmpfs", flags, _joined("mode=0755,size=100%", data))
    execute((whole, Mount("/", INITRAMFS, "", MS_BIND)), kernel, log)
    execute((_remount(target, flags, inodes(data, kernel.space(target)[0])),), kernel, log)
    timed(f"move the initramfs to {target}", lambda: _move(target, stays, kernel), kernel, log)
    done = Unmount(INITRAMFS, "all of it has been moved"), RemoveDirectory(INITRAMFS)
    execute(done, kernel, log)
    flags |= 0 if root.writable else MS_RDONLY
    execute((_remount(target, flags, limit(data, *kernel.space(target))),), kernel, log)


def _remount(target: str, flags: int, data: str) -> Mount:
    return Mount("tmpfs", target, "tmpfs", flags | MS_REMOUNT, data)


def stays_behind(target: str, *, made_for_us: bool) -> "Callable[[tuple[str, ...]], bool]":
    """Return what tells, by the names of a path, whether it stays in the initramfs.

    `target` stays too where it is only there for us.
    """
    ours = {*_RUNTIME, tuple(target.strip("/").split("/"))} if made_for_us else _RUNTIME

    def stays(path: tuple[str, ...]) -> bool:
        return path in ours or (path[:-1] == _MODULES and ".ko" in path[-1])

    return stays


def inodes(options: str, memory: int) -> str:
    """Return the limit on files, unless `options` have one: one for each page of `memory` bytes.

    The default is half of that, and a cpio archive may hold more empty files and symlinks.
    """
    return "" if "nr_inodes=" in options else f"nr_inodes={memory // _PAGE}"


def limit(options: str, total: int, free: int) -> str:
    """Return the limit on bytes, unless `options` have one: what is there, and half of the rest.

    With nothing there that is what a tmpfs is limited to by default, the half of the memory.
    """
    return "" if "size=" in options else f"size={total - free // 2}"


def _move(target: str, stays: "Callable[[tuple[str, ...]], bool]", kernel: "Kernel") -> None:
    source, new = kernel.open_directory(INITRAMFS), kernel.open_directory(target)
    try:
        kernel.move_tree(source, new, stays)
    except OSError as error:
        raise BootError(
            f"cannot move {error.filename} from the initramfs to the tmpfs root",
            reason(error),
            _hint(error),
        ) from error
    finally:
        kernel.close(source)
        kernel.close(new)


def _hint(error: OSError) -> str:
    if error.errno in (errno.ENOSPC, errno.ENOMEM):
        return "give the machine more memory, or the tmpfs more of it: rootflags=size=, nr_inodes="
    return ""


def _joined(*options: str) -> str:
    return ",".join(option for option in options if option)
