"""Tells the options that mount(2) takes as flags from those that a file system reads. Pure.

`rootflags=` has both, as in fstab: `noatime,errors=remount-ro`.
"""

from initrd.guest.steps import MS_NOATIME, MS_NODEV, MS_NOEXEC, MS_NOSUID

MS_SYNCHRONOUS, MS_DIRSYNC, MS_NODIRATIME = 1 << 4, 1 << 7, 1 << 11
MS_RELATIME, MS_STRICTATIME, MS_LAZYTIME = 1 << 21, 1 << 24, 1 << 25

_FLAGS = {
    "defaults": 0,
    "dirsync": MS_DIRSYNC,
    "lazytime": MS_LAZYTIME,
    "noatime": MS_NOATIME,
    "nodev": MS_NODEV,
    "nodiratime": MS_NODIRATIME,
    "noexec": MS_NOEXEC,
    "nosuid": MS_NOSUID,
    "relatime": MS_RELATIME,
    "strictatime": MS_STRICTATIME,
    "sync": MS_SYNCHRONOUS,
}


def split_options(text: str) -> tuple[int, str]:
    """Return the flags for mount(2), and the options that are left for the file system."""
    flags, data = 0, []
    for option in text.split(","):
        if option in _FLAGS:
            flags |= _FLAGS[option]
        elif option:
            data.append(option)
    return flags, ",".join(data)
