"""zstd, by the C library of that name.

Source: zstd.h of zstd 1.4 and later; the functions used here are its stable part.
"""

import ctypes

from initrd.host.compress import CompressError
from initrd.host.sharedlib import load

LEVEL = 9
CHUNK = 1 << 20  # bytes decompressed at a time


class _Buffer(ctypes.Structure):
    """ZSTD_inBuffer and ZSTD_outBuffer."""

    _fields_ = (("data", ctypes.c_void_p), ("size", ctypes.c_size_t), ("at", ctypes.c_size_t))


def _library() -> ctypes.CDLL:
    library = load("libzstd.so.1", debian="libzstd1", fedora="libzstd")
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
            [pointer, ctypes.POINTER(_Buffer), ctypes.POINTER(_Buffer)],
        ),
    }
    for name, (result, arguments) in prototypes.items():
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    return library


def compress(data: bytes) -> bytes:
    """Return one zstd frame. Raises HostError when the library is missing."""
    library = _library()
    bound = library.ZSTD_compressBound(len(data))
    target = ctypes.create_string_buffer(bound)
    size = _checked(library, library.ZSTD_compress(target, bound, data, len(data), LEVEL))
    return ctypes.string_at(target, size)


def decompress(data: bytes) -> tuple[bytes, int]:
    """Return the content of the frame that `data` starts with, and the frame's length.

    Raises CompressError, and HostError when the library is missing.
    """
    library = _library()
    stream = ctypes.c_void_p(library.ZSTD_createDStream())
    try:
        return _decompress(library, stream, data)
    finally:
        library.ZSTD_freeDStream(stream)


def _decompress(library: ctypes.CDLL, stream: ctypes.c_void_p, data: bytes) -> tuple[bytes, int]:
    source = _Buffer(ctypes.cast(ctypes.c_char_p(data), ctypes.c_void_p), len(data), 0)
    chunk = ctypes.create_string_buffer(CHUNK)
    chunks = []
    wanted = 1
    while wanted:  # zero: the frame is complete
        target = _Buffer(ctypes.cast(chunk, ctypes.c_void_p), CHUNK, 0)
        status = library.ZSTD_decompressStream(stream, ctypes.byref(target), ctypes.byref(source))
        wanted = _checked(library, status)
        chunks.append(ctypes.string_at(chunk, target.at))
        if wanted and source.at == len(data) and target.at < CHUNK:
            raise CompressError("the zstd data ends too early; it was cut short")
    return b"".join(chunks), source.at


def _checked(library: ctypes.CDLL, status: int) -> int:
    if library.ZSTD_isError(status):
        reason = library.ZSTD_getErrorName(status).decode()
        raise CompressError(f"the zstd data is damaged ({reason})")
    return status
