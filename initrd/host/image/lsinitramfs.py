"""Read an initramfs image as the kernel does: archives in a row, zeros between, some compressed.

Pure: bytes in, entries out. Nothing is ever written to a file system.

Source: the kernel's init/initramfs.c.
"""

import os
import stat
from collections.abc import Generator, Iterator

from initrd.errors import HostError, reason
from initrd.host.image.cpio import HEADER_SIZE, MAGIC, MAGIC_CRC, TRAILER, Entry
from initrd.record import Record


class ImageError(ValueError):
    """An image that cannot be read. The text says what is wrong, and at which byte."""


class _Header(Record):
    inode: int
    mode: int
    uid: int
    gid: int
    nlink: int
    mtime: int
    size: int
    device_major: int
    device_minor: int
    major: int
    minor: int
    name_size: int
    checksum: int

    @property
    def file(self) -> tuple[int, int, int]:
        """What the names of one file have in common."""
        return self.device_major, self.device_minor, self.inode


def read_entries(image: bytes) -> Iterator[Entry]:
    """Yield what an image holds, archive after archive, in the order of unpacking.

    A further name of a file already seen has `link` set. Where the file's content is depends on
    who wrote the archive: with the first name, or with the last.

    Raises ImageError where the image is damaged, after what comes before was yielded, and
    HostError when it takes a library that is missing.
    """
    if not image:
        raise ImageError("it is empty")
    at = 0
    while at < len(image):
        if image[at] == 0:
            at += 1
        elif _is_archive(image, at):
            at = yield from _read_archive(image, at)
        else:
            at = yield from _read_compressed(image, at)


def _is_archive(image: bytes, at: int) -> bool:
    return at % 4 == 0 and image[at : at + len(MAGIC)] in (MAGIC, MAGIC_CRC)


def _read_compressed(image: bytes, at: int) -> Generator[Entry, None, int]:
    from initrd.host.image import compress  # noqa: PLC0415 - most images are not compressed

    try:
        content, used = compress.decompress(image[at:])
    except compress.CompressError as error:
        raise ImageError(f"byte {at}: {error}") from error
    try:
        yield from _read_archives(content)
    except ImageError as error:
        raise ImageError(f"in what is compressed at byte {at}: {error}") from error
    return at + used


def _read_archives(content: bytes) -> Iterator[Entry]:
    at = 0
    while at < len(content):
        if content[at] == 0:
            at += 1
        elif _is_archive(content, at):
            at = yield from _read_archive(content, at)
        else:
            raise ImageError(f"byte {at}: no cpio archive starts here")


def _read_archive(image: bytes, at: int) -> Generator[Entry, None, int]:
    """Yield the entries of the archive that starts at `at`; return where it ends."""
    first_names: dict[tuple[int, int, int], bytes] = {}
    while True:
        header = _read_header(image, at)
        name_at = at + HEADER_SIZE
        body_at = _aligned(name_at + header.name_size)
        name = _piece(image, at, name_at, header.name_size).rstrip(b"\0")
        if name == TRAILER:
            return min(body_at, len(image))
        body = _piece(image, at, body_at, header.size)
        link = b""
        if stat.S_ISREG(header.mode) and header.nlink > 1:
            first = first_names.setdefault(header.file, name)
            link = first if first != name else b""
        yield _entry(header, name, body, link)
        at = _aligned(body_at + header.size)


def _read_header(image: bytes, at: int) -> _Header:
    if at >= len(image):
        raise ImageError(f"byte {at}: the archive ends without its last entry; it was cut short")
    raw = _piece(image, at, at, HEADER_SIZE)
    if raw[:6] not in (MAGIC, MAGIC_CRC):
        raise ImageError(f"byte {at}: an entry should start here, and none does")
    digits = raw[6:]
    if not digits.isalnum():  # int() would take blanks, signs and underscores
        raise ImageError(f"byte {at}: the entry's header is not made of numbers")
    try:
        return _Header(*(int(digits[n : n + 8], 16) for n in range(0, len(digits), 8)))
    except ValueError:
        raise ImageError(f"byte {at}: the entry's header is not made of numbers") from None


def _piece(image: bytes, entry_at: int, start: int, size: int) -> bytes:
    if start + size > len(image):
        raise ImageError(
            f"byte {entry_at}: the entry goes on to byte {start + size}, "
            f"but there are only {len(image)}; it was cut short"
        )
    return image[start : start + size]


def _aligned(at: int) -> int:
    return at + -at % 4


def _entry(header: _Header, name: bytes, body: bytes, link: bytes) -> Entry:
    return Entry(
        path=name,
        mode=header.mode,
        data=body,
        uid=header.uid,
        gid=header.gid,
        mtime=header.mtime,
        device=(header.major, header.minor),
        link=link,
    )


def list_image(path: str) -> Iterator[str]:
    """Yield a line for each file in the image at `path`.

    Raises HostError when it cannot be read, or at the place from which on it is damaged.
    """
    try:
        with open(path, "rb") as file:
            if stat.S_ISCHR(os.fstat(file.fileno()).st_mode):  # a terminal; /dev/urandom has no end
                raise HostError(f"cannot read {path}", "it is neither a file nor a pipe")
            image = file.read()
        yield from map(format_entry, read_entries(image))
    except MemoryError as error:  # a few kB of compressed zeros are enough
        raise HostError(f"cannot read {path}", "it takes more memory than there is") from error
    except OSError as error:
        raise HostError(f"cannot read {path}", reason(error)) from error
    except ImageError as error:
        raise HostError(f"cannot read {path} as an initramfs image", str(error)) from error


def format_entry(entry: Entry) -> str:
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
