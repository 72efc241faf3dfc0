"""Show what an initramfs image holds, a line a file, in the manner of `ls -l`."""

import os
import stat
from collections.abc import Iterator

from initrd.host.cpio import Entry
from initrd.host.failure import HostError, reason
from initrd.host.unpack import ImageError, read


def list_image(path: str) -> Iterator[str]:
    """Yield a line for each file in the image at `path`.

    Raises HostError when it cannot be read, or at the place from which on it is damaged.
    """
    try:
        with open(path, "rb") as file:
            if stat.S_ISCHR(os.fstat(file.fileno()).st_mode):  # a terminal; /dev/urandom has no end
                raise HostError(f"cannot read {path}", "it is neither a file nor a pipe")
            image = file.read()
        yield from map(describe, read(image))
    except MemoryError as error:  # a few kB of compressed zeros are enough
        raise HostError(f"cannot read {path}", "it takes more memory than there is") from error
    except OSError as error:
        raise HostError(f"cannot read {path}", reason(error)) from error
    except ImageError as error:
        raise HostError(f"cannot read {path} as an initramfs image", str(error)) from error


def describe(entry: Entry) -> str:
    """Return the mode, owner, group, size (or device number) and name, and where links lead."""
    size = str(len(entry.data))
    if stat.S_ISBLK(entry.mode) or stat.S_ISCHR(entry.mode):
        size = ",".join(str(number) for number in entry.device)
    line = f"{stat.filemode(entry.mode)} {entry.uid:5} {entry.gid:5} {size:>10} "
    line += printable(entry.path)
    if stat.S_ISLNK(entry.mode):
        line += f" -> {printable(entry.data)}"
    return line + (f" link to {printable(entry.link)}" if entry.link else "")


def printable(name: bytes) -> str:
    r"""Return `name` with what a terminal may not be sent written as `\n` or `\xff`."""
    text = name.replace(b"\\", b"\\\\").decode(errors="backslashreplace")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
