"""Compress images, decompress modules and images: the formats that the kernel reads.

gzip and xz come with Python. zstd and lz4 come from the shared libraries libzstd and liblz4, which
nearly every Linux distribution installs for its package manager; they are loaded when they are
first needed. No program is started. The same input gives the same bytes, as long as the library
stays the same.

Compressed data may come from anywhere: some kB of it can be many GB of zeros. It is decompressed in
pieces, up to a limit that the caller gives.

Source: the kernel's lib/decompress*.c.
"""

import ctypes
from collections.abc import Callable

from initrd.host.system.hosterror import HostError

TYPE_CHECKING = False
if TYPE_CHECKING:
    import lzma
    import zlib

METHODS = ("none", "gzip", "xz", "zstd", "lz4")
_FIRST_PIECE, _LAST_PIECE = 512, 1 << 16  # bytes given to a decompressor at a time: growing
_GZIP_LEVEL = 6
_GZIP_WINDOW = 16 + 15  # zlib.h: 2**15 bytes, with a gzip header (which then has no time in it)
_LZ4_MAGIC = (0x184C2102).to_bytes(4, "little")
_LZ4_BLOCK = 8 << 20  # bytes before compression
_LZ4_LEVEL = 9  # of LZ4_compress_HC
_ZSTD_LEVEL = 9
_ZSTD_CHUNK = 1 << 17  # bytes decompressed at a time: ZSTD_DStreamOutSize()
_XZ_MEMORY = 256 << 20  # bytes; `xz -9` takes 65 MiB, and a header may ask for 4 GiB


class CompressError(ValueError):
    """Data that cannot be decompressed. The text gives the reason."""


def compress(data: bytes, method: str) -> bytes:
    """Return `data` compressed by one of METHODS, in the form that the kernel reads.

    Raises HostError when a library is missing.
    """
    return _COMPRESSORS[method](data)


def decompress(data: bytes, limit: int, offset: int = 0) -> tuple[bytes, int]:
    """Return the content of the stream at `offset` of `data`, and the stream's own length.

    The time does not depend on what follows the stream. Raises CompressError when the stream is
    damaged, in an unknown format, or has more than `limit` bytes of content; and HostError when a
    library is missing.
    """
    for magic, decompressor in _DECOMPRESSORS.items():
        if data.startswith(magic, offset):
            return decompressor(data, offset, limit)
    raise CompressError("no cpio archive, and not compressed by gzip, xz, zstd or lz4 --legacy")


def load_library(soname: str, *, debian: str, fedora: str) -> ctypes.CDLL:
    """Return the library `soname`; `debian` and `fedora` are the packages that contain it.

    Raises HostError.
    """
    try:
        return ctypes.CDLL(soname)
    except OSError as error:  # it has the text of dlerror(3), and no errno
        raise HostError(
            f"cannot load the library {soname}",
            str(error),
            f"install {debian} (Debian, Ubuntu) or {fedora} (Fedora)",
        ) from None


def _gzip(data: bytes) -> bytes:
    import zlib  # noqa: PLC0415 - here and below: seldom needed, and imports make the start slower

    stream = zlib.compressobj(_GZIP_LEVEL, wbits=_GZIP_WINDOW)
    return stream.compress(data) + stream.flush()


def _gunzip(data: bytes, offset: int, limit: int) -> tuple[bytes, int]:
    import zlib  # noqa: PLC0415

    stream = zlib.decompressobj(_GZIP_WINDOW)
    try:
        return _decompress_stream("gzip", stream, data, offset, limit)
    except zlib.error as error:
        raise CompressError(f"the gzip data is damaged ({error})") from None


def _xz(data: bytes) -> bytes:
    import lzma  # noqa: PLC0415

    return lzma.compress(data, check=lzma.CHECK_CRC32)  # the kernel supports no other check


def _unxz(data: bytes, offset: int, limit: int) -> tuple[bytes, int]:
    import lzma  # noqa: PLC0415

    stream = lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_XZ_MEMORY)
    try:
        return _decompress_stream("xz", stream, data, offset, limit)
    except lzma.LZMAError as error:
        raise CompressError(f"the xz data is damaged ({error})") from None


def _decompress_stream(
    method: str,
    stream: "zlib._Decompress | lzma.LZMADecompressor",
    data: bytes,
    offset: int,
    limit: int,
) -> tuple[bytes, int]:
    """Return the content of a stream and its length. Raises CompressError.

    The pieces grow with what has been read, so that many short streams in a row are read in a time
    that is linear in their size: the decompressor copies what is left of a piece.
    """
    chunks, total, position, piece = [], 0, offset, _FIRST_PIECE
    while not stream.eof:
        _check_complete(method, complete=position < len(data))
        part = data[position : position + piece]
        chunks.append(stream.decompress(part, max_length=limit - total + 1))
        total += len(chunks[-1])
        _check_limit(total, limit)
        position += len(part)
        piece = min(2 * piece, _LAST_PIECE)
    return b"".join(chunks), position - len(stream.unused_data) - offset


def _check_limit(size: int, limit: int) -> None:
    if size > limit:
        raise CompressError(f"it has more than {limit >> 20} MiB when decompressed, the limit")


def _check_complete(method: str, *, complete: bool) -> None:
    if not complete:
        raise CompressError(f"the {method} data ends too early; it was cut short")


def _lz4_library() -> ctypes.CDLL:
    library = load_library("liblz4.so.1", debian="liblz4-1", fedora="lz4-libs")
    number, data = ctypes.c_int, ctypes.c_char_p
    library.LZ4_compressBound.argtypes = [number]
    library.LZ4_compress_HC.argtypes = [data, ctypes.c_void_p, number, number, number]
    library.LZ4_decompress_safe.argtypes = [data, ctypes.c_void_p, number, number]
    return library


def _lz4(data: bytes) -> bytes:
    """Return one legacy frame. Raises HostError when the library is missing."""
    library = _lz4_library()
    bound = library.LZ4_compressBound(_LZ4_BLOCK)
    target = ctypes.create_string_buffer(bound)
    chunks = [_LZ4_MAGIC]
    for offset in range(0, len(data), _LZ4_BLOCK):
        block = data[offset : offset + _LZ4_BLOCK]
        size = library.LZ4_compress_HC(block, target, len(block), bound, _LZ4_LEVEL)
        chunks += [size.to_bytes(4, "little"), ctypes.string_at(target, size)]
    return b"".join(chunks)


def _unlz4(data: bytes, start: int, limit: int) -> tuple[bytes, int]:
    """Return the content of the frame at `start` of `data`, and the frame's length.

    Raises CompressError, and HostError when the library is missing.
    """
    library = _lz4_library()
    bound = library.LZ4_compressBound(_LZ4_BLOCK)
    target = ctypes.create_string_buffer(_LZ4_BLOCK)
    chunks, total = [], 0
    offset = start + len(_LZ4_MAGIC)
    while size := int.from_bytes(data[offset : offset + 4], "little"):
        block = data[offset + 4 : offset + 4 + min(size, bound)]
        _check_complete("lz4", complete=len(block) == size or size > bound)
        length = library.LZ4_decompress_safe(block, target, len(block), _LZ4_BLOCK)
        if size > bound or length < 0:
            raise CompressError(
                "the lz4 data is damaged, or what follows it does not start with four zeros"
            )
        total += length
        _check_limit(total, limit)
        chunks.append(ctypes.string_at(target, length))
        offset += 4 + size
    return b"".join(chunks), offset - start


class _ZstdBuffer(ctypes.Structure):
    """ZSTD_inBuffer and ZSTD_outBuffer."""

    _fields_ = (("data", ctypes.c_void_p), ("size", ctypes.c_size_t), ("pos", ctypes.c_size_t))


def _zstd_library() -> ctypes.CDLL:
    library = load_library("libzstd.so.1", debian="libzstd1", fedora="libzstd")
    size, pointer = ctypes.c_size_t, ctypes.c_void_p
    prototypes = {
        "ZSTD_compressBound": (size, [size]),
        "ZSTD_compress": (size, [pointer, size, ctypes.c_char_p, size, ctypes.c_int]),
        "ZSTD_isError": (ctypes.c_uint, [size]),
        "ZSTD_getErrorName": (ctypes.c_char_p, [size]),
        "ZSTD_createDStream": (pointer, []),
        "ZSTD_freeDStream": (size, [pointer]),
        "ZSTD_decompressStream": (
            size,
            [pointer, ctypes.POINTER(_ZstdBuffer), ctypes.POINTER(_ZstdBuffer)],
        ),
    }
    for name, (result, arguments) in prototypes.items():
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    return library


def _zstd(data: bytes) -> bytes:
    """Return one zstd frame. Raises HostError when the library is missing."""
    library = _zstd_library()
    bound = library.ZSTD_compressBound(len(data))
    target = ctypes.create_string_buffer(bound)
    status = library.ZSTD_compress(target, bound, data, len(data), _ZSTD_LEVEL)
    return ctypes.string_at(target, _check_zstd(library, status))


def _unzstd(data: bytes, offset: int, limit: int) -> tuple[bytes, int]:
    """Return the content of the frame at `offset` of `data`, and the frame's length.

    Raises CompressError, and HostError when the library is missing.
    """
    library = _zstd_library()
    stream = ctypes.c_void_p(library.ZSTD_createDStream())
    try:
        return _decompress_zstd_frame(library, stream, data, offset, limit)
    finally:
        library.ZSTD_freeDStream(stream)


def _decompress_zstd_frame(
    library: ctypes.CDLL, stream: ctypes.c_void_p, data: bytes, offset: int, limit: int
) -> tuple[bytes, int]:
    source = _ZstdBuffer(ctypes.cast(ctypes.c_char_p(data), ctypes.c_void_p), len(data), offset)
    chunk = ctypes.create_string_buffer(_ZSTD_CHUNK)
    chunks, total = [], 0
    remaining = 1  # a hint of the library, in bytes; 0: the frame is complete
    while remaining:
        target = _ZstdBuffer(ctypes.cast(chunk, ctypes.c_void_p), _ZSTD_CHUNK, 0)
        status = library.ZSTD_decompressStream(stream, ctypes.byref(target), ctypes.byref(source))
        remaining = _check_zstd(library, status)
        total += target.pos
        _check_limit(total, limit)
        chunks.append(ctypes.string_at(chunk, target.pos))
        exhausted = source.pos == len(data) and target.pos < _ZSTD_CHUNK
        _check_complete("zstd", complete=not (remaining and exhausted))
    return b"".join(chunks), source.pos - offset


def _check_zstd(library: ctypes.CDLL, status: int) -> int:
    """Return the result of a call of libzstd. Raises CompressError when it is an error."""
    if library.ZSTD_isError(status):
        reason = library.ZSTD_getErrorName(status).decode()
        raise CompressError(f"the zstd data is damaged ({reason})")
    return status


_COMPRESSORS: dict[str, Callable[[bytes], bytes]] = {
    "none": lambda data: data,
    "gzip": _gzip,
    "xz": _xz,
    "zstd": _zstd,
    "lz4": _lz4,
}
_DECOMPRESSORS: dict[bytes, Callable[[bytes, int, int], tuple[bytes, int]]] = {  # by magic number
    b"\x1f\x8b": _gunzip,
    b"\xfd7zXZ\0": _unxz,
    b"\x28\xb5\x2f\xfd": _unzstd,
    _LZ4_MAGIC: _unlz4,  # the legacy frame: the only one that the kernel reads
}
