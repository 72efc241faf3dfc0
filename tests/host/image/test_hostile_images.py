"""Images of somebody hostile: many parts, zeros, entries, and what unpacks to a lot."""

import gzip
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from initrd.host.image import compress, cpio, lsinitramfs
from initrd.host.image.lsinitramfs import ImageError, list_image, read_entries
from initrd.host.system import rootfile
from initrd.host.system.hosterror import HostError
from tests.host import hostile_roots

EMPTY = gzip.compress(b"", mtime=0)
FIRST = cpio.pack([cpio.file("first", b"1" * 100)])


@pytest.fixture(autouse=True)
def alarm() -> Iterator[None]:
    """End a test that blocks: the signal's default action ends the test process."""
    signal.alarm(120)
    yield
    signal.alarm(0)


@pytest.mark.parametrize("kind", hostile_roots.SPECIAL)
def test_special_file_is_refused(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "image"
    hostile_roots.replace(path, kind)
    with pytest.raises(HostError, match=f"cannot read {path}: it is no regular file but {kind}"):
        list(list_image(str(path)))


def test_large_file_is_refused_before_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "image"
    path.touch()
    os.truncate(path, 1 << 40)
    with pytest.raises(HostError, match="it has more than 1024 MiB"):
        list(list_image(str(path)))


def test_empty_compressed_parts_are_read_in_linear_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each part gives the decompressor a piece of limited size, not all that follows."""
    counted = hostile_roots.CountedDecompressors(monkeypatch)
    count = 5000
    assert list(read_entries(EMPTY * count)) == []
    assert len(counted.given) == count
    assert max(counted.given) == 512


@pytest.mark.parametrize("method", compress.METHODS[1:])
def test_number_of_compressed_parts_is_limited(
    method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lsinitramfs, "MAX_PARTS", 3)
    part = compress.compress(FIRST, method)
    image = part + cpio.padding(len(part))
    assert len(list(read_entries(image * 3))) == 3
    with pytest.raises(ImageError, match=f"byte {3 * len(image)}: it has more than 3 compressed"):
        list(read_entries(image * 4))


def test_number_of_entries_is_limited_over_all_archives(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lsinitramfs, "MAX_ENTRIES", 5)  # each archive has an entry for its end
    with pytest.raises(ImageError, match="it has more than 5 entries"):
        list(read_entries((FIRST + bytes(4)) * 3))


def test_what_all_parts_unpack_to_is_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lsinitramfs, "IMAGE", rootfile.SizeLimit(1 << 20, "an image"))
    part = compress.compress(FIRST + bytes(400_000), "gzip")
    with pytest.raises(ImageError, match=f"byte {2 * len(part)}: it has more than 0 MiB when"):
        list(read_entries(part * 3))


def test_zeros_are_skipped_at_once(tmp_path: Path) -> None:
    path = tmp_path / "image"
    path.write_bytes(FIRST)
    os.truncate(path, 32 << 20)
    assert len(list(list_image(str(path)))) == 1


@pytest.mark.parametrize(
    "entry",
    [
        pytest.param(cpio.file("x" * 4000, b""), id="name"),
        pytest.param(cpio.symlink("x", "y" * 4000), id="target"),
    ],
)
def test_long_name_or_target_is_an_error(
    entry: cpio.Entry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lsinitramfs, "PATH_MAX", 3000)
    with pytest.raises(ImageError, match="name or link has more than 3000 bytes"):
        list(read_entries(cpio.pack([entry])))


def test_image_that_unpacks_to_gigabytes_is_refused_with_limited_memory(tmp_path: Path) -> None:
    path = tmp_path / "image"
    path.write_bytes(hostile_roots.gzip_bomb(3 << 30))
    program = """
        import sys
        from initrd.host.system.hosterror import HostError
        from initrd.host.image import lsinitramfs
        from initrd.host.system.rootfile import SizeLimit
        lsinitramfs.IMAGE = SizeLimit(128 << 20, "an image")
        try:
            list(lsinitramfs.list_image(sys.argv[1]))
        except HostError as error:
            print(error)
    """
    output = hostile_roots.run_with_memory(1 << 29, program, str(path))
    assert "byte 0: it has more than 128 MiB when decompressed" in output
