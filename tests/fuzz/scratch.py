"""The directory in which targets make files."""

import functools
import os
import tempfile
from pathlib import Path

_IN_MEMORY = "/dev/shm"


@functools.cache
def _directory() -> tempfile.TemporaryDirectory[str]:
    folder = _IN_MEMORY if os.access(_IN_MEMORY, os.W_OK) else None
    return tempfile.TemporaryDirectory(prefix="initrd-fuzz-", dir=folder)


def scratch(name: str) -> Path:
    """Return a path in a directory of this process, in memory; it is removed at the end."""
    return Path(_directory().name, name)
