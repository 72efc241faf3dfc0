"""The machine that the header of an ELF file names."""

import os
import sys

import pytest

from initrd.elf import HEADER_SIZE, elf_machine, kernel_for


def head(number: int, *, bits: int = 64, order: str = "little") -> bytes:
    """Return the header of a program."""
    ident = b"\x7fELF" + bytes([bits // 32, 1 if order == "little" else 2, 1]) + bytes(9)
    return ident + b"".join(field.to_bytes(2, order) for field in (2, number))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("header", "name"),
    [
        (head(62), "x86_64"),
        (head(62, bits=32), "x32"),
        (head(3, bits=32), "i386"),
        (head(40, bits=32), "arm"),
        (head(183), "aarch64"),
        (head(243), "riscv64"),
        (head(21), "ppc64le"),
        (head(22, order="big"), "s390x"),
        pytest.param(head(183, order="big"), "", id="big-endian arm"),
        pytest.param(head(258), "", id="unknown machine"),
        pytest.param(head(62)[:-1], "", id="truncated"),
        pytest.param(b"#!/bin/sh\n" + bytes(20), "", id="script"),
        pytest.param(b"\x7fELF" + b"\xff" * 99, "", id="nonsense"),
        pytest.param(b"", "", id="empty"),
    ],
)
def test_machine_is_read_from_the_header(header: bytes, name: str) -> None:
    assert elf_machine(header) == name


def test_this_interpreter_is_for_this_machine() -> None:
    with open(sys.executable, "rb") as file:
        machine = elf_machine(file.read(HEADER_SIZE))
    assert kernel_for(machine) == kernel_for(os.uname().machine)


def test_kernels_of_64_bits_execute_programs_of_32() -> None:
    assert [kernel_for(name) for name in ("i386", "arm", "s390x")] == ["x86_64", "aarch64", "s390x"]
