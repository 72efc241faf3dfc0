"""Resolve the symbolic links of a path inside a root directory other than `/`, as after chroot(2).

Pure. Source: path_resolution(7).
"""

import errno
import posix

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

_MAX_LINKS = 40  # the limit of the kernel


def resolve(path: str, read_link: "Callable[[str], str]") -> str:
    """Return the path, relative to the root directory, that `path` has without symbolic links.

    The result begins with `/`. `read_link` gets a path of this form; it returns the target of the
    link there, an empty string for a file that is not a link, and raises OSError to end the
    resolution. Raises OSError (ELOOP) after 40 links.
    """
    resolved, remaining, link_count = "", path.split("/")[::-1], 0
    while remaining:
        name = remaining.pop()
        if name == "..":
            resolved = resolved.rpartition("/")[0]
        elif name not in ("", "."):
            target = read_link(f"{resolved}/{name}")
            if not target:
                resolved = f"{resolved}/{name}"
                continue
            link_count += 1
            if link_count > _MAX_LINKS:
                raise OSError(errno.ELOOP, posix.strerror(errno.ELOOP), path)
            resolved = "" if target.startswith("/") else resolved
            remaining += target.split("/")[::-1]
    return resolved or "/"
