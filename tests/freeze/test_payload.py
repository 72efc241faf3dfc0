"""Packed shared objects: which ones, and the removal of their search paths."""

import struct
from pathlib import Path

import pytest

from initrd.freeze.payload import DT_RPATH, DT_RUNPATH, PT_DYNAMIC, members, without_search_path

DT_NEEDED, DT_STRTAB, DT_NULL = 1, 5, 0


def elf(*entries: tuple[int, int], dynamic: bool = True) -> bytes:
    """Return a 64-bit ELF file: header, two program headers, and a dynamic section."""
    section = b"".join(struct.pack("=qQ", *entry) for entry in entries)
    header = struct.pack("=32xQ14xHH6x", 64, 56, 2)
    load = struct.pack("=IIQQQQQQ", 1, 5, 0, 0, 0, 176 + len(section), 0, 4096)
    kind = PT_DYNAMIC if dynamic else 4
    second = struct.pack("=IIQQQQQQ", kind, 6, 176, 0, 0, len(section), len(section), 8)
    return header.ljust(64, b"\0") + load + second + section + b"the rest"


@pytest.mark.parametrize("tag", [DT_RPATH, DT_RUNPATH])
def test_search_path_is_removed(tag: int) -> None:
    before = elf((DT_NEEDED, 1), (tag, 77), (DT_STRTAB, 5), (DT_NULL, 0))
    assert without_search_path(before) == elf(
        (DT_NEEDED, 1), (DT_STRTAB, 5), (DT_NULL, 0), (DT_NULL, 0)
    )


@pytest.mark.parametrize(
    "file",
    [
        pytest.param(elf((DT_NEEDED, 1), (DT_STRTAB, 5), (DT_NULL, 0)), id="no search path"),
        pytest.param(elf((DT_RUNPATH, 5), (DT_NULL, 0), dynamic=False), id="not dynamic"),
    ],
)
def test_file_without_search_path_is_unchanged(file: bytes) -> None:
    assert without_search_path(file) == file


def test_static_program_packs_no_shared_objects(tmp_path: Path) -> None:
    program = tmp_path / "program"
    program.write_bytes(elf((DT_NEEDED, 1), dynamic=False))
    assert members({"start_extensions": [], "all_extensions": []}, str(program)) == ({}, {})
