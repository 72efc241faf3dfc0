"""Follows paths inside a root directory that is not `/` yet: its symlinks lead to places in it."""

import errno
import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from initrd.guest.kernel import Kernel

_MOST_LINKS = 40  # as the kernel has it, path_resolution(7)


def resolve(path: str, root: str, kernel: "Kernel") -> str:
    """Return where `path` leads for a process whose root directory is `root`.

    The result begins with `/`, has no symlinks in it, and need not exist. Raises OSError (ELOOP).
    """
    done, left, links = "", path.split("/")[::-1], 0
    while left:
        name = left.pop()
        if name == "..":
            done = done.rpartition("/")[0]
        elif name not in ("", "."):
            to = kernel.read_link(f"{root}{done}/{name}")
            links += bool(to)
            if links > _MOST_LINKS:
                raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path)
            if not to:
                done = f"{done}/{name}"
                continue
            done = "" if to.startswith("/") else done
            left += to.split("/")[::-1]
    return done or "/"
