"""Compression: round trips, damaged data, and headers that the kernel requires."""

import lzma
import random
import zlib

import pytest

from initrd.host.image import compress
from initrd.host.image.compress import METHODS, CompressError
from initrd.host.system.hosterror import HostError

COMPRESSORS = METHODS[1:]
LIMIT = 64 << 20
NOISE = random.Random(1).randbytes(5000)
DATA = {
    "empty": b"",
    "a byte": b"x",
    "noise": NOISE,
    "more than a block of LZ4": NOISE + bytes(17 << 20) + NOISE,
    "a whole block of LZ4": bytes(8 << 20),
}


def decompress(data: bytes, limit: int = LIMIT, offset: int = 0) -> tuple[bytes, int]:
    return compress.decompress(data, limit, offset)


@pytest.mark.parametrize("data", DATA.values(), ids=DATA.keys())
@pytest.mark.parametrize("method", COMPRESSORS)
def test_compressed_data_is_decompressed_to_the_same_bytes(method: str, data: bytes) -> None:
    stream = compress.compress(data, method)
    assert decompress(stream) == (data, len(stream))


@pytest.mark.parametrize("method", COMPRESSORS)
def test_decompressing_stops_at_the_end_of_the_first_stream(method: str) -> None:
    stream = compress.compress(NOISE, method)
    assert decompress(stream + bytes(4) + NOISE) == (NOISE, len(stream))


@pytest.mark.parametrize("method", COMPRESSORS)
def test_decompressing_starts_at_an_offset(method: str) -> None:
    stream = compress.compress(NOISE, method)
    assert decompress(b"abc" + stream + bytes(4), offset=3) == (NOISE, len(stream))


@pytest.mark.parametrize("method", COMPRESSORS)
def test_content_above_the_limit_raises_an_error(method: str) -> None:
    stream = compress.compress(bytes(3 << 20), method)
    assert decompress(stream, limit=3 << 20) == (bytes(3 << 20), len(stream))
    with pytest.raises(CompressError, match="it has more than 2 MiB when decompressed"):
        decompress(stream, limit=(3 << 20) - 1)


def test_xz_data_that_requires_much_memory_raises_an_error() -> None:
    stream = bytearray(compress.compress(NOISE, "xz"))
    stream[16] = 34  # the size of the dictionary in the block's header: 512 MiB
    stream[20:24] = zlib.crc32(stream[12:20]).to_bytes(4, "little")
    with pytest.raises(CompressError, match=r"xz data is damaged .*Memory usage"):
        decompress(bytes(stream))


@pytest.mark.parametrize("method", METHODS)
def test_compressing_twice_gives_the_same_bytes(method: str) -> None:
    assert compress.compress(NOISE, method) == compress.compress(NOISE, method)


@pytest.mark.parametrize("method", COMPRESSORS)
def test_a_truncated_stream_raises_an_error(method: str) -> None:
    stream = compress.compress(NOISE, method)
    with pytest.raises(CompressError, match="cut short"):
        decompress(stream[: len(stream) // 2])


@pytest.mark.parametrize("method", ["gzip", "xz", "zstd"])
def test_a_damaged_stream_raises_an_error(method: str) -> None:
    stream = bytearray(compress.compress(b"text " * 999, method))
    stream[6:] = bytes(byte ^ 0x5A for byte in stream[6:])
    with pytest.raises(CompressError, match=f"the {method} data is damaged"):
        decompress(bytes(stream))


@pytest.mark.parametrize("size", [b"\xff\xff\xff\xff", b"\x10\0\0\0"], ids=["huge", "nonsense"])
def test_an_lz4_block_with_a_wrong_size_raises_an_error(size: bytes) -> None:
    with pytest.raises(CompressError, match="damaged, or what follows"):
        decompress(b"\x02\x21\x4c\x18" + size + b"\xff" * 99)


@pytest.mark.parametrize(
    "data",
    [b"", b"\x7fELF", b"\x1f\x9d", b"\x04\x22\x4d\x18"],
    ids=["empty", "ELF", ".Z", "LZ4 frame"],
)
def test_data_in_an_unknown_format_raises_an_error(data: bytes) -> None:
    with pytest.raises(CompressError, match="not compressed by gzip, xz, zstd or lz4 --legacy"):
        decompress(data)


def test_gzip_data_has_no_time_and_no_name() -> None:
    assert compress.compress(NOISE, "gzip")[:8] == b"\x1f\x8b\x08\0\0\0\0\0"


def test_xz_data_has_a_crc32_check_which_the_kernel_supports() -> None:
    stream = lzma.LZMADecompressor()
    stream.decompress(compress.compress(NOISE, "xz"))
    assert stream.check == lzma.CHECK_CRC32


def test_the_error_for_a_missing_library_names_its_packages() -> None:
    with pytest.raises(HostError) as caught:
        compress.load_library("libnowhere.so.1", debian="libnowhere1", fedora="nowhere-libs")
    assert str(caught.value).startswith("cannot load the library libnowhere.so.1: ")
    assert caught.value.hint == "install libnowhere1 (Debian, Ubuntu) or nowhere-libs (Fedora)"
