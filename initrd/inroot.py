"""Follow a path inside a root directory that is not `/`: symbolic links lead to places in it. Pure.

Source: path_resolution(7).
"""

import errno
import posix

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

_MOST_LINKS = 40  # as in the kernel


def resolve(path: str, read_link: "Callable[[str], str]") -> str:
    """Return where `path` leads for a process whose root directory is the one in question.

    The result begins with `/` and has no symbolic link in it. `read_link` is given such a path; it
    returns the target of the link there, an empty string for what is no link, and raises OSError
    for what shall end the search. Raises OSError (ELOOP) after 40 links.
    """
    done, left, links = "", path.split("/")[::-1], 0
    while left:
        name = left.pop()
        if name == "..":
            done = done.rpartition("/")[0]
        elif name not in ("", "."):
            target = read_link(f"{done}/{name}")
            if not target:
                done = f"{done}/{name}"
                continue
            links += 1
            if links > _MOST_LINKS:
                raise OSError(errno.ELOOP, posix.strerror(errno.ELOOP), path)
            done = "" if target.startswith("/") else done
            left += target.split("/")[::-1]
    return done or "/"
