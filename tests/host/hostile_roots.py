"""Files that somebody hostile may put into a root directory, and a limit of memory for a test."""

import os
import stat
import struct
import subprocess
import sys
import textwrap
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]

# Files that block when they are opened or read without care, or that have no end.
SPECIAL: dict[str, Callable[[str], object]] = {"a named pipe": os.mkfifo}
if os.geteuid() == 0:
    SPECIAL["a character device"] = lambda path: os.mknod(path, stat.S_IFCHR | 0o600, 0x0105)


def replace(path: Path, kind: str) -> None:
    """Put a special file in the place of a file."""
    path.unlink(missing_ok=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    SPECIAL[kind](str(path))


def gzip_bomb(size: int) -> bytes:
    """Return the beginning of gzip data with `size` bytes of zeros in pieces of 16 MiB.

    The end is missing, with the checksum: the limit is reached before.
    """
    stream = zlib.compressobj(9, wbits=31)
    head = stream.compress(b"\x7fELF") + stream.flush(zlib.Z_FULL_FLUSH)
    piece = stream.compress(bytes(16 << 20)) + stream.flush(zlib.Z_FULL_FLUSH)
    return head + piece * (size >> 24)


class CountedDecompressors:
    """Takes the place of zlib.decompressobj() in a test; notes the sizes of what passes."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.given: list[int] = []  # bytes
        self.produced: list[int] = []  # bytes
        self._make = zlib.decompressobj
        monkeypatch.setattr(zlib, "decompressobj", lambda wbits: _Counted(self, self._make(wbits)))


class _Counted:
    def __init__(self, counts: CountedDecompressors, stream: "zlib._Decompress") -> None:
        self._counts, self._stream = counts, stream

    def __getattr__(self, name: str) -> object:
        return getattr(self._stream, name)

    def decompress(self, data: bytes, max_length: int) -> bytes:
        content = self._stream.decompress(data, max_length)
        self._counts.given.append(len(data))
        self._counts.produced.append(len(content))
        return content


def elf_with_headers(count: int, segment_type: int, offset: int, length: int) -> bytes:
    """Return the beginning of an x86 ELF file whose program headers are all the same."""
    ident = b"\x7fELF\x02\x01\x01" + bytes(9)
    head = struct.pack("<HHIQQQIHHHHHH", 2, 62, 1, 0, 64, 0, 0, 64, 56, count, 0, 0, 0)
    header = struct.pack("<IIQQQQQQ", segment_type, 4, offset, 0, 0, length, length, 4)
    return ident + head + header * count


def run_with_memory(size: int, program: str, *arguments: str) -> str:
    """Run a Python program with `size` bytes of address space; return its standard output.

    Fails the test unless its exit status is 0.
    """
    limit = f"import resource; resource.setrlimit(resource.RLIMIT_AS, ({size}, {size}))\n"
    done = subprocess.run(
        [sys.executable, "-c", limit + textwrap.dedent(program), *arguments],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
