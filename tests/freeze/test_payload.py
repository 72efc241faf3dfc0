"""Which shared objects are packed, and without a search path of their own."""

import struct
from pathlib import Path

import pytest

from initrd.freeze.payload import DT_RPATH, DT_RUNPATH, PT_DYNAMIC, members, without_search_path

NEEDED, STRTAB, NOTHING = 1, 5, 0


def elf(*entries: tuple[int, int], dynamic: bool = True) -> bytes:
    """A 64-bit ELF file: header, two program headers, and a dynamic section."""
    section = b"".join(struct.pack("=qQ", *entry) for entry in entries)
    header = struct.pack("=32xQ14xHH6x", 64, 56, 2)
    load = struct.pack("=IIQQQQQQ", 1, 5, 0, 0, 0, 176 + len(section), 0, 4096)
    kind = PT_DYNAMIC if dynamic else 4
    second = struct.pack("=IIQQQQQQ", kind, 6, 176, 0, 0, len(section), len(section), 8)
    return header.ljust(64, b"\0") + load + second + section + b"the rest"


@pytest.mark.parametrize("tag", [DT_RPATH, DT_RUNPATH])
def test_a_search_path_is_taken_out(tag: int) -> None:
    before = elf((NEEDED, 1), (tag, 77), (STRTAB, 5), (NOTHING, 0))
    assert without_search_path(before) == elf((NEEDED, 1), (STRTAB, 5), (NOTHING, 0), (NOTHING, 0))


@pytest.mark.parametrize(
    "file",
    [
        pytest.param(elf((NEEDED, 1), (STRTAB, 5), (NOTHING, 0)), id="no search path"),
        pytest.param(elf((DT_RUNPATH, 5), (NOTHING, 0), dynamic=False), id="not dynamic"),
    ],
)
def test_any_other_file_stays_as_it_is(file: bytes) -> None:
    assert without_search_path(file) == file


def test_a_static_program_brings_nothing(tmp_path: Path) -> None:
    program = tmp_path / "program"
    program.write_bytes(elf((NEEDED, 1), dynamic=False))
    assert members({"start_extensions": [], "all_extensions": []}, str(program)) == ({}, {})
