"""Images that `lsinitramfs` reads: formats, several archives, damaged images."""

import pytest

from initrd.host.image import compress, cpio, lsinitramfs

FIRST = cpio.pack([cpio.file("first", b"1" * 100)])
SECOND = cpio.pack([cpio.file("second", b"2"), cpio.hard_link("third", "second")])
COMPRESSORS = compress.METHODS[1:]


def paths(image: bytes) -> list[bytes]:
    return [entry.path for entry in lsinitramfs.read_entries(image)]


@pytest.mark.parametrize("method", compress.METHODS)
def test_an_image_is_read_in_every_compression_format(method: str) -> None:
    assert list(lsinitramfs.read_entries(compress.compress(SECOND, method))) == list(
        lsinitramfs.read_entries(SECOND)
    )


@pytest.mark.parametrize("method", compress.METHODS)
def test_all_archives_of_an_image_are_read(method: str) -> None:
    first = compress.compress(FIRST, method)
    image = first + cpio.padding(len(first)) + SECOND
    image += cpio.padding(len(image)) + compress.compress(FIRST, "xz") + bytes(512)
    assert paths(image) == [b"first", b"second", b"third", b"first"]


def test_all_archives_in_one_compressed_stream_are_read() -> None:
    image = compress.compress(FIRST + bytes(512) + SECOND + bytes(3), "gzip")
    assert paths(image) == [b"first", b"second", b"third"]


def test_a_hard_link_refers_to_a_file_of_its_own_archive() -> None:
    assert [entry.link for entry in lsinitramfs.read_entries(SECOND + SECOND)] == [
        b"",
        b"second",
    ] * 2


def test_archives_with_checksums_are_read() -> None:
    assert paths(FIRST.replace(b"070701", b"070702")) == [b"first"]


@pytest.mark.parametrize(
    ("image", "message"),
    [
        pytest.param(b"", "it is empty", id="empty"),
        pytest.param(b"#!/bin/sh\n", "byte 0: no cpio archive, and not compressed", id="a script"),
        pytest.param(b"070707" + bytes(70), "byte 0: no cpio archive", id="the old cpio format"),
        pytest.param(FIRST[:50], "byte 0: .* cut short", id="within the header"),
        pytest.param(FIRST[:113], "byte 0: .* cut short", id="within the name"),
        pytest.param(FIRST[:150], "byte 0: .* cut short", id="within the content"),
        pytest.param(FIRST[:216], "byte 216: .* without its last entry", id="before the trailer"),
        pytest.param(FIRST[:230], "byte 216: .* cut short", id="within the trailer"),
        pytest.param(FIRST.replace(b"081A4", b" 81A4"), "not made of numbers", id="a blank"),
        pytest.param(FIRST.replace(b"081A4", b"+81A4"), "not made of numbers", id="a sign"),
        pytest.param(FIRST.replace(b"081A4", b"081X4"), "not made of numbers", id="a letter"),
        pytest.param(
            FIRST.replace(b"00000064", b"FFFFFFFF"), "goes on to byte 4294967411", id="a huge size"
        ),
        pytest.param(
            FIRST.replace(b"00000064", b"00000001"), "should start here", id="a wrong size"
        ),
        pytest.param(FIRST + b"junk", "byte 340: no cpio archive", id="trailing junk"),
        pytest.param(FIRST + b"\0" + SECOND, "byte 341: no cpio", id="the second is not aligned"),
        pytest.param(
            compress.compress(FIRST + b"junk", "gzip"),
            "in what is compressed at byte 0: byte 340: no cpio archive",
            id="trailing junk, compressed",
        ),
        pytest.param(
            compress.compress(compress.compress(FIRST, "gzip"), "gzip"),
            "in what is compressed at byte 0: byte 0: no cpio archive",
            id="compressed twice",
        ),
    ],
)
def test_a_damaged_image_raises_an_error_that_names_the_byte(image: bytes, message: str) -> None:
    with pytest.raises(lsinitramfs.ImageError, match=message):
        paths(image)


def test_entries_before_the_damage_are_yielded() -> None:
    entries = lsinitramfs.read_entries(FIRST + SECOND[:-150])
    assert next(entries).path == b"first"
    assert next(entries).path == b"second"
    with pytest.raises(lsinitramfs.ImageError):
        list(entries)


@pytest.mark.parametrize("method", COMPRESSORS)
def test_a_truncated_compressed_image_raises_an_error_at_every_length(method: str) -> None:
    image = compress.compress(FIRST, method)
    for size in range(6, len(image)):
        with pytest.raises(lsinitramfs.ImageError, match=r"cut short|damaged|without its last"):
            paths(image[:size])


@pytest.mark.parametrize("method", compress.METHODS)
def test_a_changed_byte_causes_no_error_but_image_error(method: str) -> None:
    image = compress.compress(SECOND, method)
    outcomes = set()
    for offset in range(len(image)):
        damaged = bytearray(image)
        damaged[offset] ^= 0x41
        try:
            outcomes.add(len(paths(bytes(damaged))))
        except lsinitramfs.ImageError:
            outcomes.add(-1)
    assert -1 in outcomes
