"""The memory of a saved machine: find the parts that are not zero, and copy them.

A file is copied in the kernel (sendfile(2)), and only where there is something: a machine of 1 GiB
has used some 90 MB of it when it is saved.
"""

import errno
import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    Extent = tuple[int, int]  # offset in the memory, length; bytes

_BLOCK = 1 << 14  # bytes; smaller ones take longer to compare, larger ones have more zeros
_ZEROS = bytes(_BLOCK)


def create(size: int) -> int:
    """Return a descriptor of a new memory of `size` bytes, all of them zero. Raises OSError."""
    descriptor = os.memfd_create("memory")
    try:
        os.truncate(descriptor, size)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def find_extents(memory: int) -> "list[Extent]":
    """Return the parts of a memory that are not zero, in their order. Raises OSError."""
    found: list[Extent] = []
    for start, end in _allocated_ranges(memory):
        for offset in range(start, end, _BLOCK):
            length = min(_BLOCK, end - offset)
            block = os.pread(memory, length, offset)
            if block == _ZEROS[:length]:
                continue
            if found and sum(found[-1]) == offset:
                found[-1] = (found[-1][0], found[-1][1] + length)
            else:
                found.append((offset, length))
    return found


def save(memory: int, extents: "list[Extent]", file: int) -> None:
    """Append the extents of a memory to a file. Raises OSError."""
    for offset, length in extents:
        _send(memory, offset, file, length)


def load(file: int, offset: int, extents: "list[Extent]", memory: int) -> None:
    """Copy what `save` has written at `offset` of a file to a new memory. Raises OSError."""
    for start, length in extents:
        os.lseek(memory, start, os.SEEK_SET)
        _send(file, offset, memory, length)
        offset += length


def _send(source: int, offset: int, target: int, length: int) -> None:
    end = offset + length
    while offset < end:
        count = os.sendfile(target, source, offset, end - offset)
        if not count:
            raise OSError(0, "the file is truncated")
        offset += count


def _allocated_ranges(descriptor: int) -> "Iterator[tuple[int, int]]":
    """Yield start and end of each part of a sparse file that is not a hole: lseek(2)."""
    end = 0
    while True:
        try:
            start = os.lseek(descriptor, end, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:  # only a hole is left
                return
            raise
        end = os.lseek(descriptor, start, os.SEEK_HOLE)
        yield start, end
