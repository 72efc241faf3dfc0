"""File systems that are mounted below a shared directory, and what the guest sees of them.

virtiofsd announces them, and the guest mounts each where it is. The kernel's overlayfs refuses
directories with such mounts in its lower layer (EREMOTE). Unannounced, they look like directories
of the file system above them.
"""

import os

from initrd.text import decode

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

_SHOWN = 3  # mount points in the text
_ESCAPES = ((r"\040", " "), (r"\011", "\t"), (r"\012", "\n"), (r"\134", "\\"))


def find_submounts(directory: str, mountinfo: str = "/proc/self/mountinfo") -> tuple[str, ...]:
    """Return the mount points of this process below an absolute directory, without links.

    Source: proc_pid_mountinfo(5), the fifth field. The result is empty where it cannot be read.
    """
    try:
        with open(mountinfo, "rb") as file:
            lines = decode(file.read()).split("\n")[:-1]  # a name may have a \r
    except OSError:
        return ()
    points = {_unescape(line.split(" ")[4]) for line in lines}
    prefix = os.path.join(directory, "")
    return tuple(sorted(point for point in points - {directory} if point.startswith(prefix)))


def explain_submounts(directory: str, mounts: "Iterable[str]") -> str:
    """Return what the guest does not see of mounts below the lower layer; empty without mounts."""
    points = list(mounts)
    if not points:
        return ""
    more = f" and {len(points) - _SHOWN} more" if len(points) > _SHOWN else ""
    names = ", ".join(points[:_SHOWN])
    return (
        f"the guest sees no mounts in {directory}, because overlayfs allows none there; the files "
        f"of {names}{more} look like files of the same device, with inode numbers that may be equal"
    )


def _unescape(path: str) -> str:
    for escape, char in _ESCAPES:
        path = path.replace(escape, char)
    return path
