"""Read and list an initramfs image: cpio archives in a row, with zeros between, some compressed.

The image is read as the kernel reads it. Nothing is written to a file system. An image may come
from anywhere: what it unpacks to, its parts and its entries are limited, and the time is linear in
its size.

Source: the kernel's init/initramfs.c.
"""

import re
import stat
from collections.abc import Generator, Iterator

from initrd.errors import reason
from initrd.host.image.cpio import HEADER_SIZE, MAGIC, MAGIC_CRC, PATH_MAX, TRAILER, Entry
from initrd.host.system.hosterror import HostError
from initrd.host.system.printable import printable
from initrd.host.system.rootfile import IMAGE, read_input
from initrd.record import Record

MAX_PARTS = 10_000  # compressed streams; images of distributions have up to 5
MAX_ENTRIES = 1_000_000  # files, in all archives; a whole distribution has some 300,000
_ZEROS = re.compile(rb"\0*")
_BLOCK = bytes(1 << 16)  # zeros


class ImageError(ValueError):
    """An image that cannot be read. The text gives the reason and the byte."""


def read_entries(image: bytes) -> Iterator[Entry]:
    """Yield the entries of an image, archive after archive, in the order of unpacking.

    A further name of a file already seen has `link` set. The file's content is with its first name
    or with its last: that depends on the program that wrote the archive.

    Raises ImageError where the image is damaged or has more than the limits, after the entries
    before were yielded, and HostError when a library is missing.
    """
    if not image:
        raise ImageError("it is empty")
    yield from _Reader().read_parts(image, is_compressed=False)


def list_image(path: str) -> Iterator[str]:
    """Yield a line for each file in the image at `path`.

    A pipe that this process has as a descriptor is read, too: `/dev/stdin`, or what a shell makes
    of `<(command)`. Raises HostError when the image cannot be read, or where it is damaged.
    """
    try:
        yield from map(format_entry, read_entries(read_input(path, IMAGE)))
    except MemoryError as error:
        raise HostError(f"cannot read {path}", "it takes more memory than there is") from error
    except OSError as error:
        raise HostError(f"cannot read {path}", reason(error)) from error
    except ImageError as error:
        raise HostError(f"cannot read {path} as an initramfs image", str(error)) from error


def format_entry(entry: Entry) -> str:
    """Return the mode, owner, group, size (or device number) and name, and the target of a link."""
    size = str(len(entry.data))
    if stat.S_ISBLK(entry.mode) or stat.S_ISCHR(entry.mode):
        size = ",".join(str(number) for number in entry.device)
    line = f"{stat.filemode(entry.mode)} {entry.uid:5} {entry.gid:5} {size:>10} "
    line += _escape(entry.path)
    if stat.S_ISLNK(entry.mode):
        line += f" -> {_escape(entry.data)}"
    return line + (f" link to {_escape(entry.link)}" if entry.link else "")


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
    def file_id(self) -> tuple[int, int, int]:
        """The numbers that all names of one file have in common."""
        return self.device_major, self.device_minor, self.inode


def _is_archive(image: bytes, offset: int) -> bool:
    return offset % 4 == 0 and image.startswith((MAGIC, MAGIC_CRC), offset)


def _skip_zeros(image: bytes, offset: int) -> int:
    while image.startswith(_BLOCK, offset):  # a match of 1 GiB would hold up signals for seconds
        offset += len(_BLOCK)
    found = _ZEROS.match(image, offset)
    return found.end() if found else offset


class _Reader:
    """Reads the parts of one image, and counts what is limited."""

    def __init__(self) -> None:
        self._parts = self._entries = 0
        self._size = IMAGE.size  # bytes that the next parts may have when decompressed

    def read_parts(self, image: bytes, *, is_compressed: bool) -> Iterator[Entry]:
        """Yield the entries of an image, or of what was compressed in one: archives only."""
        offset = 0
        while offset < len(image):
            if image[offset] == 0:
                offset = _skip_zeros(image, offset)
            elif _is_archive(image, offset):
                offset = yield from self._read_archive(image, offset)
            elif is_compressed:
                raise ImageError(f"byte {offset}: no cpio archive starts here")
            else:
                offset = yield from self._read_compressed(image, offset)

    def _read_compressed(self, image: bytes, offset: int) -> Generator[Entry, None, int]:
        """Yield the entries of the compressed stream at `offset`; return the offset of its end."""
        from initrd.host.image import compress  # noqa: PLC0415 - most images are not compressed

        self._parts += 1
        if self._parts > MAX_PARTS:
            raise ImageError(f"byte {offset}: it has more than {MAX_PARTS} compressed parts")
        try:
            content, size = compress.decompress(image, self._size, offset)
        except compress.CompressError as error:
            raise ImageError(f"byte {offset}: {error}") from error
        self._size -= len(content)
        try:
            yield from self.read_parts(content, is_compressed=True)
        except ImageError as error:
            raise ImageError(f"in what is compressed at byte {offset}: {error}") from error
        return offset + size

    def _read_archive(self, image: bytes, offset: int) -> Generator[Entry, None, int]:
        """Yield the entries of the archive at `offset`; return the offset of its end."""
        first_names: dict[tuple[int, int, int], bytes] = {}
        while True:
            self._entries += 1
            if self._entries > MAX_ENTRIES:
                raise ImageError(f"byte {offset}: it has more than {MAX_ENTRIES} entries")
            header = _read_header(image, offset)
            name_offset = offset + HEADER_SIZE
            body_offset = _align(name_offset + header.name_size)
            name = _slice(image, offset, name_offset, header.name_size).rstrip(b"\0")
            if name == TRAILER:
                return min(body_offset, len(image))
            body = _slice(image, offset, body_offset, header.size)
            _check_lengths(offset, header)
            link = b""
            if stat.S_ISREG(header.mode) and header.nlink > 1:
                first = first_names.setdefault(header.file_id, name)
                link = first if first != name else b""
            yield _make_entry(header, name, body, link)
            offset = _align(body_offset + header.size)


def _check_lengths(offset: int, header: _Header) -> None:
    target_size = header.size if stat.S_ISLNK(header.mode) else 0
    if max(header.name_size, target_size) > PATH_MAX:
        raise ImageError(f"byte {offset}: the entry's name or link has more than {PATH_MAX} bytes")


def _read_header(image: bytes, offset: int) -> _Header:
    if offset >= len(image):
        raise ImageError(
            f"byte {offset}: the archive ends without its last entry; it was cut short"
        )
    raw = _slice(image, offset, offset, HEADER_SIZE)
    if raw[:6] not in (MAGIC, MAGIC_CRC):
        raise ImageError(f"byte {offset}: an entry should start here, and none does")
    digits = raw[6:]
    if not digits.isalnum():  # int() accepts blanks, signs and underscores
        raise ImageError(f"byte {offset}: the entry's header is not made of numbers")
    try:
        return _Header(*(int(digits[n : n + 8], 16) for n in range(0, len(digits), 8)))
    except ValueError:
        raise ImageError(f"byte {offset}: the entry's header is not made of numbers") from None


def _slice(image: bytes, entry_offset: int, start: int, size: int) -> bytes:
    """Return `size` bytes from `start` on. Raises ImageError when the image is shorter."""
    if start + size > len(image):
        raise ImageError(
            f"byte {entry_offset}: the entry goes on to byte {start + size}, "
            f"but there are only {len(image)}; it was cut short"
        )
    return image[start : start + size]


def _align(offset: int) -> int:
    return offset + -offset % 4


def _make_entry(header: _Header, name: bytes, body: bytes, link: bytes) -> Entry:
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


def _escape(name: bytes) -> str:
    r"""Return `name` with control characters, and bytes that are not UTF-8, as `\n` or `\xff`."""
    return printable(name.replace(b"\\", b"\\\\").decode(errors="surrogateescape"))
