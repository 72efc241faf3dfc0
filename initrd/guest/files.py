"""Reads whole files with system calls alone: `open` would make Python complete its start first."""

import posix as os


def read_all(fd: int) -> bytes:
    """Return what comes from a descriptor up to its end."""
    return b"".join(iter(lambda: os.read(fd, 65536), b""))


def read_file(path: "str | bytes", limit: "int | None" = None) -> bytes:
    """Return what is in a file, or its first `limit` bytes. Raises OSError."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return read_all(fd) if limit is None else os.read(fd, limit)
    finally:
        os.close(fd)
