"""Parse the value of --disk. Pure, but for the current directory."""

import os

from initrd.errors import HostError
from initrd.host.qemu.argv import Disk

_READ_ONLY = ",ro"


def parse_disk(text: str) -> Disk:
    """Return the disk that `FILE[,ro]` is. Other commas belong to the name of the file.

    Raises HostError for a value without a FILE.
    """
    path = text.removesuffix(_READ_ONLY)
    if not path:
        raise HostError(f"cannot use {text} as a disk", "there is no FILE before the comma")
    return Disk(os.path.abspath(path), writable=path == text)
