"""LZ4 in its legacy frame, the only one that the kernel reads, by the C library liblz4.

A legacy frame is a magic number and blocks of 8 MiB, each with its compressed size in front. It has
no end of its own: what follows must start with four zeros, see `cpio.gap`.

Source: lz4.h, lz4hc.h and lz4_Frame_format.md of LZ4 1.9; the kernel's lib/decompress_unlz4.c.
"""

import ctypes

from initrd.host.compress import CompressError
from initrd.host.sharedlib import load

MAGIC = (0x184C2102).to_bytes(4, "little")
BLOCK = 8 << 20  # bytes before compression
LEVEL = 9  # of the high compression


def _library() -> ctypes.CDLL:
    library = load("liblz4.so.1", debian="liblz4-1", fedora="lz4-libs")
    number, data = ctypes.c_int, ctypes.c_char_p
    library.LZ4_compressBound.argtypes = [number]
    library.LZ4_compress_HC.argtypes = [data, ctypes.c_void_p, number, number, number]
    library.LZ4_decompress_safe.argtypes = [data, ctypes.c_void_p, number, number]
    return library


def compress(data: bytes) -> bytes:
    """Return one legacy frame. Raises HostError when the library is missing."""
    library = _library()
    bound = library.LZ4_compressBound(BLOCK)
    target = ctypes.create_string_buffer(bound)
    chunks = [MAGIC]
    for at in range(0, len(data), BLOCK):
        block = data[at : at + BLOCK]
        size = library.LZ4_compress_HC(block, target, len(block), bound, LEVEL)
        chunks += [size.to_bytes(4, "little"), ctypes.string_at(target, size)]
    return b"".join(chunks)


def decompress(data: bytes) -> tuple[bytes, int]:
    """Return the content of the frame that `data` starts with, and the frame's length.

    Raises CompressError, and HostError when the library is missing.
    """
    library = _library()
    bound = library.LZ4_compressBound(BLOCK)
    target = ctypes.create_string_buffer(BLOCK)
    chunks = []
    at = len(MAGIC)
    while size := int.from_bytes(data[at : at + 4], "little"):
        block = data[at + 4 : at + 4 + size]
        if len(block) < size <= bound:
            raise CompressError("the lz4 data ends too early; it was cut short")
        length = library.LZ4_decompress_safe(block, target, len(block), BLOCK)
        if size > bound or length < 0:
            raise CompressError(
                "the lz4 data is damaged, or what follows it does not start with four zeros"
            )
        chunks.append(ctypes.string_at(target, length))
        at += 4 + size
    return b"".join(chunks), at
