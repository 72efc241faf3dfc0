"""Compress an image, decompress modules and images: the formats that kernels read.

gzip and xz come with Python. zstd and lz4 come from the shared libraries that nearly every Linux
distribution has for its package manager's sake; they are loaded only when they are needed. No
program is started. The same input gives the same bytes, as long as the library stays the same.

Source: the kernel's lib/decompress*.c.
"""

from collections.abc import Callable

METHODS = ("none", "gzip", "xz", "zstd", "lz4")
GZIP_LEVEL = 6
GZIP_WINDOW = 16 + 15  # zlib.h: 2**15 bytes, with a gzip header (which then has no time in it)


class CompressError(ValueError):
    """Data that cannot be decompressed. The text says why."""


def compress(data: bytes, method: str) -> bytes:
    """Return `data` compressed by one of METHODS, in the form that the kernel reads.

    Raises HostError when a library is missing.
    """
    return _COMPRESS[method](data)


def decompress(data: bytes) -> tuple[bytes, int]:
    """Return the content of the stream that `data` starts with, and the stream's own length.

    Raises CompressError when it is damaged or in no format that we know, and HostError when a
    library is missing.
    """
    for magic, decompressor in _DECOMPRESS.items():
        if data.startswith(magic):
            return decompressor(data)
    raise CompressError("no cpio archive, and not compressed by gzip, xz, zstd or lz4 --legacy")


def _gzip(data: bytes) -> bytes:
    import zlib  # noqa: PLC0415 - here and below: seldom needed, and starting takes long enough

    stream = zlib.compressobj(GZIP_LEVEL, wbits=GZIP_WINDOW)
    return stream.compress(data) + stream.flush()


def _gunzip(data: bytes) -> tuple[bytes, int]:
    import zlib  # noqa: PLC0415

    stream = zlib.decompressobj(GZIP_WINDOW)
    try:
        content = stream.decompress(data)
    except zlib.error as error:
        raise CompressError(f"the gzip data is damaged ({error})") from None
    return _whole("gzip", content, data, stream.unused_data, complete=stream.eof)


def _xz(data: bytes) -> bytes:
    import lzma  # noqa: PLC0415

    return lzma.compress(data, check=lzma.CHECK_CRC32)  # the kernel knows no other check


def _unxz(data: bytes) -> tuple[bytes, int]:
    import lzma  # noqa: PLC0415

    stream = lzma.LZMADecompressor(lzma.FORMAT_XZ)
    try:
        content = stream.decompress(data)
    except lzma.LZMAError as error:
        raise CompressError(f"the xz data is damaged ({error})") from None
    return _whole("xz", content, data, stream.unused_data, complete=stream.eof)


def _whole(
    method: str, content: bytes, data: bytes, rest: bytes, *, complete: bool
) -> tuple[bytes, int]:
    if not complete:
        raise CompressError(f"the {method} data ends too early; it was cut short")
    return content, len(data) - len(rest)


def _zstd(data: bytes) -> bytes:
    from initrd.host import libzstd  # noqa: PLC0415

    return libzstd.compress(data)


def _unzstd(data: bytes) -> tuple[bytes, int]:
    from initrd.host import libzstd  # noqa: PLC0415

    return libzstd.decompress(data)


def _lz4(data: bytes) -> bytes:
    from initrd.host import liblz4  # noqa: PLC0415

    return liblz4.compress(data)


def _unlz4(data: bytes) -> tuple[bytes, int]:
    from initrd.host import liblz4  # noqa: PLC0415

    return liblz4.decompress(data)


_COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    "none": lambda data: data,
    "gzip": _gzip,
    "xz": _xz,
    "zstd": _zstd,
    "lz4": _lz4,
}
_DECOMPRESS: dict[bytes, Callable[[bytes], tuple[bytes, int]]] = {
    b"\x1f\x8b": _gunzip,
    b"\xfd7zXZ\0": _unxz,
    b"\x28\xb5\x2f\xfd": _unzstd,
    b"\x02\x21\x4c\x18": _unlz4,  # the legacy frame: the only one that the kernel reads
}
