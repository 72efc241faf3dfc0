"""The memory of a saved machine: which parts are saved, and that they come back."""

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from initrd.host.template import memory

BLOCK = 1 << 14  # bytes; what is compared with zeros at once
SIZE = 64 * BLOCK


@pytest.fixture
def source() -> Iterator[int]:
    descriptor = memory.create(SIZE)
    yield descriptor
    os.close(descriptor)


@pytest.fixture
def target() -> Iterator[int]:
    descriptor = memory.create(SIZE)
    yield descriptor
    os.close(descriptor)


def read(descriptor: int) -> bytes:
    return os.pread(descriptor, os.fstat(descriptor).st_size, 0)


def test_new_memory_has_its_size_and_no_extents(source: int) -> None:
    assert os.fstat(source).st_size == SIZE
    assert os.fstat(source).st_blocks == 0
    assert memory.find_extents(source) == []


def test_new_memory_is_not_inherited(source: int) -> None:
    assert not os.get_inheritable(source)


def test_memory_that_cannot_be_made_leaves_no_descriptor_open(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.EFBIG, "File too large")  # by ulimit -f

    monkeypatch.setattr(os, "truncate", fail)
    with pytest.raises(OSError, match="too large"):
        memory.create(SIZE)


@pytest.mark.parametrize(
    ("pieces", "extents"),
    [
        pytest.param([(0, b"x")], [(0, BLOCK)], id="the first byte"),
        pytest.param([(SIZE - 1, b"x")], [(SIZE - BLOCK, BLOCK)], id="the last byte"),
        pytest.param([(5, b"x" * BLOCK)], [(0, 2 * BLOCK)], id="neighbours are one extent"),
        pytest.param(
            [(0, b"x"), (2 * BLOCK, b"y")], [(0, BLOCK), (2 * BLOCK, BLOCK)], id="a hole between"
        ),
        pytest.param([(3 * BLOCK, bytes(5 * BLOCK))], [], id="allocated zeros"),
        pytest.param(
            [(0, b"x" * BLOCK), (BLOCK, bytes(BLOCK)), (2 * BLOCK, b"y" * BLOCK)],
            [(0, BLOCK), (2 * BLOCK, BLOCK)],
            id="allocated zeros between",
        ),
        pytest.param([(0, bytes(BLOCK - 1) + b"x")], [(0, BLOCK)], id="the end of a block"),
        pytest.param([(0, b"x" * SIZE)], [(0, SIZE)], id="all of it"),
    ],
)
def test_extents_are_the_blocks_that_are_not_zero(
    source: int, pieces: list[tuple[int, bytes]], extents: list[tuple[int, int]]
) -> None:
    for offset, data in pieces:
        os.pwrite(source, data, offset)
    found = memory.find_extents(source)
    # Where the kernel allocates pages of 4 kB, an extent begins with the page and not with a block.
    assert sum(length for _, length in found) <= sum(length for _, length in extents)
    assert all(
        any(start <= at and at + size <= start + length for start, length in extents)
        for at, size in found
    )
    content = read(source)
    assert b"".join(content[at : at + size] for at, size in found).replace(b"\0", b"") == (
        content.replace(b"\0", b"")
    )


def test_extents_of_whole_allocated_blocks_are_exact(source: int) -> None:
    os.pwrite(source, bytes(SIZE), 0)
    for block in (0, 3, 4, 63):
        os.pwrite(source, b"x", block * BLOCK + 100)
    assert memory.find_extents(source) == [
        (0, BLOCK),
        (3 * BLOCK, 2 * BLOCK),
        (63 * BLOCK, BLOCK),
    ]


@pytest.mark.parametrize("size", [1, 100, 4096, BLOCK + 1, 3 * BLOCK - 7])
def test_last_block_may_be_a_part_of_one(size: int) -> None:
    descriptor = memory.create(size)
    os.pwrite(descriptor, bytes(size), 0)
    assert memory.find_extents(descriptor) == []
    os.pwrite(descriptor, b"x", size - 1)
    start = (size - 1) // BLOCK * BLOCK
    assert memory.find_extents(descriptor) == [(start, size - start)]
    os.close(descriptor)


def test_an_error_of_the_search_is_not_taken_for_the_end_of_the_memory() -> None:
    reader, writer = os.pipe()
    with pytest.raises(OSError, match="Illegal seek"):
        memory.find_extents(reader)
    os.close(reader)
    os.close(writer)


def test_saved_memory_is_loaded_as_it_was(source: int, target: int, tmp_path: Path) -> None:
    for block in (0, 1, 5, 62):
        os.pwrite(source, os.urandom(BLOCK // 2), block * BLOCK + 77)
    os.pwrite(source, b"end", SIZE - 3)
    extents = memory.find_extents(source)
    with (tmp_path / "file").open("w+b", buffering=0) as file:
        file.write(b"header")
        memory.save(source, extents, file.fileno())
        assert os.fstat(file.fileno()).st_size == 6 + sum(length for _, length in extents)
        os.lseek(file.fileno(), 3, os.SEEK_SET)  # where the file is read does not matter
        memory.load(file.fileno(), 6, extents, target)
    assert read(target) == read(source)
    assert os.fstat(target).st_size == SIZE
    assert os.fstat(target).st_blocks < SIZE // 512, "holes are not written"


def test_a_source_may_be_copied_several_times(source: int, tmp_path: Path) -> None:
    os.pwrite(source, os.urandom(BLOCK), 0)
    extents = memory.find_extents(source)
    contents = []
    for name in "ab":
        with (tmp_path / name).open("w+b", buffering=0) as file:
            memory.save(source, extents, file.fileno())
        contents.append((tmp_path / name).read_bytes())
    assert contents[0] == contents[1] == read(source)[:BLOCK]


@pytest.mark.parametrize("missing", [1, BLOCK, 2 * BLOCK])
def test_loading_a_truncated_file_raises_os_error(
    source: int, target: int, tmp_path: Path, missing: int
) -> None:
    os.pwrite(source, b"x" * BLOCK, 0)
    os.pwrite(source, b"x" * BLOCK, 9 * BLOCK)
    extents = memory.find_extents(source)
    with (tmp_path / "file").open("w+b", buffering=0) as file:
        memory.save(source, extents, file.fileno())
        file.truncate(2 * BLOCK - missing)
        with pytest.raises(OSError, match="truncated"):
            memory.load(file.fileno(), 0, extents, target)


def test_saving_continues_after_a_part_that_sendfile_has_copied(
    source: int, target: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    os.pwrite(source, os.urandom(SIZE), 0)
    sendfile = os.sendfile
    monkeypatch.setattr(
        os, "sendfile", lambda out, in_, at, count: sendfile(out, in_, at, min(count, 12345))
    )
    with (tmp_path / "file").open("w+b", buffering=0) as file:
        memory.save(source, [(0, SIZE)], file.fileno())
        memory.load(file.fileno(), 0, [(0, SIZE)], target)
    assert read(target) == read(source)
