"""Explanations of a failed execve(2)."""

import errno
import os
import socket
import sys
from pathlib import Path

import pytest

from initrd.guest.execerror import explain_exec_error


def write_program(tmp_path: Path, content: bytes, mode: int = 0o755) -> str:
    path = tmp_path / "program"
    path.write_bytes(content)
    path.chmod(mode)
    return str(path)


def exec_error_text(path: str) -> str:
    """Execute a file of the host, which must fail, and return the explanation of the error."""
    try:
        os.posix_spawn(path, [path], {})
    except OSError as error:
        return ": ".join(explain_exec_error(path, error))
    raise AssertionError(f"{path} ran")


def elf_program(machine: int, loader: bytes = b"") -> bytes:
    """Return a 64-bit little-endian ELF file with a PT_INTERP header: elf(5)."""
    header = bytearray(64)
    header[:7] = b"\x7fELF\x02\x01\x01"
    header[16:20] = (2).to_bytes(2, "little") + machine.to_bytes(2, "little")
    header[32:40] = (64).to_bytes(8, "little")
    header[54:58] = (56).to_bytes(2, "little") + bytes([1, 0])
    interp = bytearray(56)
    interp[0] = 3
    interp[8:16] = (120).to_bytes(8, "little")
    interp[32:40] = (len(loader) + 1).to_bytes(8, "little")
    return bytes(header) + bytes(interp) + loader + b"\0"


def test_missing_file_is_explained_as_missing(tmp_path: Path) -> None:
    assert "no such file in the root" in exec_error_text(str(tmp_path / "nothing"))


def test_file_without_execute_permission_is_explained_with_chmod(tmp_path: Path) -> None:
    path = write_program(tmp_path, b"#!/bin/sh\n", 0o644)
    explanation = ": ".join(
        explain_exec_error(path, PermissionError(errno.EACCES, "Permission denied"))
    )
    assert "not executable" in explanation
    assert "chmod +x" in explanation


def test_directory_is_explained_as_a_directory(tmp_path: Path) -> None:
    text = explain_exec_error(str(tmp_path), PermissionError(errno.EACCES, "Permission denied"))[0]
    assert text == "it is a directory"


@pytest.mark.parametrize("number", [errno.EACCES, errno.ENOEXEC])
def test_special_files_are_named_by_type_and_not_opened(tmp_path: Path, number: int) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe, 0o755)  # opening it to read would wait for a writer for ever
    error = OSError(number, os.strerror(number))
    assert explain_exec_error(str(pipe), error)[0] == "it is a named pipe"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "socket"))
    assert explain_exec_error(str(tmp_path / "socket"), error)[0] == "it is a socket"
    assert explain_exec_error("/dev/zero", error)[0] == "it is a device"


@pytest.mark.parametrize(
    ("line", "text"),
    [
        pytest.param(b"#!/bin/sh\r\n", "carriage return", id="from Windows"),
        pytest.param(b"#!/" + b"x" * 300 + b"\n", "longer than the 256 bytes", id="too long"),
        pytest.param(b"#!/no/such\t-x\n", "check /no/such in the root", id="tab"),
        pytest.param(b"#! \n", "names no interpreter", id="blank"),
    ],
)
def test_bad_first_line_of_a_script_is_explained(tmp_path: Path, line: bytes, text: str) -> None:
    assert text in exec_error_text(write_program(tmp_path, line))


def test_missing_interpreter_of_a_script_is_named(tmp_path: Path) -> None:
    assert "/no/such/python" in exec_error_text(
        write_program(tmp_path, b"#! /no/such/python -E\nprint()\n")
    )


def test_missing_dynamic_loader_of_a_program_is_named(tmp_path: Path) -> None:
    content = Path(sys.executable).read_bytes()[:20]
    machine = int.from_bytes(content[18:20], sys.byteorder)
    path = write_program(tmp_path, elf_program(machine, b"/lib/ld-none.so"))
    text = explain_exec_error(path, FileNotFoundError(errno.ENOENT, "No such file or directory"))[0]
    assert "/lib/ld-none.so" in text


def test_missing_dynamic_loader_of_a_32_bit_program_is_named(tmp_path: Path) -> None:
    header = bytearray(84)
    header[:7] = b"\x7fELF\x01\x01\x01"
    header[28:32] = (52).to_bytes(4, "little")
    header[42:46] = (32).to_bytes(2, "little") + bytes([1, 0])
    header[52] = 3
    header[56:60] = (84).to_bytes(4, "little")
    header[68:72] = (15).to_bytes(4, "little")
    path = write_program(tmp_path, bytes(header) + b"/lib/ld-none32\0")
    error = FileNotFoundError(errno.ENOENT, "No such file or directory")
    assert "/lib/ld-none32" in explain_exec_error(path, error)[0]


def test_program_for_another_machine_is_explained_with_both_machines(tmp_path: Path) -> None:
    path = write_program(tmp_path, elf_program(243))
    text = explain_exec_error(path, OSError(errno.ENOEXEC, "Exec format error"))[0]
    assert "riscv64" in text
    assert os.uname().machine in text


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"hello\n",
        b"\0" * 100,
        b"\x7fELF",
        b"\x7fELF" + b"\xff" * 4000,
        b"#!",
        b"#!\n",
        b"#! \n",
    ],
    ids=["empty", "text", "zeros", "short elf", "nonsense elf", "short script", "bare", "blank"],
)
@pytest.mark.parametrize("number", [errno.ENOEXEC, errno.ENOENT, errno.EACCES, errno.EIO])
def test_any_file_contents_and_errno_have_an_explanation(
    tmp_path: Path, content: bytes, number: int
) -> None:
    why, _ = explain_exec_error(
        write_program(tmp_path, content), OSError(number, os.strerror(number))
    )
    assert why
