"""Explain why an execve(2) failed, from the file as well as from the error number.

ENOENT, for instance, also means that the interpreter of a script or the dynamic loader of a program
is missing. This module is imported only after a failure.
"""

import errno
import os
import stat

from initrd.elf import elf_machine, machine_number
from initrd.errors import reason

_ELF_HEADER = 64  # bytes; elf(5)
_SCRIPT_LINE_SIZE = 256  # BINPRM_BUF_SIZE of include/uapi/linux/binfmts.h, since Linux 5.1


def explain_exec_error(path: str, error: OSError) -> tuple[str, str]:
    """Return the reason why `path` could not be executed, and what to try."""
    try:
        mode = os.stat(path).st_mode
        head = _read_head(path) if stat.S_ISREG(mode) else b""
    except FileNotFoundError:
        return "there is no such file in the root", "set init=PATH to a program that is there"
    except OSError as read_error:
        return f"{reason(error)} (cannot look at it: {reason(read_error)})", ""
    return _explain_file(path, mode, head, error)


def _explain_file(path: str, mode: int, head: bytes, error: OSError) -> tuple[str, str]:
    if not stat.S_ISREG(mode):
        return f"it is a {_file_type(mode)}", "set init=PATH to a program"
    if error.errno == errno.EACCES:
        return _explain_access(path, mode)
    if head.startswith(b"#!"):
        return _explain_script(head, error)
    if head.startswith(b"\x7fELF") and len(head) >= _ELF_HEADER:
        return _explain_elf(head, error)
    return f"{reason(error)}: neither an ELF program nor a script that begins with #!", ""


def _file_type(mode: int) -> str:
    """Return the type of a file that is not regular; it is not opened: a pipe would block."""
    types = {stat.S_IFDIR: "directory", stat.S_IFIFO: "named pipe", stat.S_IFSOCK: "socket"}
    return types.get(stat.S_IFMT(mode), "device")


def _read_head(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read(4096)


def _explain_access(path: str, mode: int) -> tuple[str, str]:
    if not mode & 0o111:
        return "it is not executable", f"chmod +x {path} in the root"
    return (
        "permission denied",
        "its file system may be mounted noexec, or its interpreter is not executable",
    )


def _explain_script(head: bytes, error: OSError) -> tuple[str, str]:
    """Explain an error from the first line of a script: the kernel's fs/binfmt_script.c."""
    line = head[2:].split(b"\n")[0]
    words = line.split(maxsplit=1)
    if not words:
        return f"{reason(error)}: its first line, #!, names no interpreter", ""
    interpreter = os.fsdecode(words[0])
    if line.endswith(b"\r"):
        return (
            f"{reason(error)}: its first line ends as on Windows, so that a carriage return "
            f"belongs to the name of its interpreter {interpreter}",
            "save it with Unix line ends",
        )
    if len(line) + 2 >= _SCRIPT_LINE_SIZE:
        return (
            f"{reason(error)}: its first line is longer than the "
            f"{_SCRIPT_LINE_SIZE} bytes that the kernel reads",
            "shorten the path of its interpreter",
        )
    return (
        f"{reason(error)}: it is a script for {interpreter}",
        f"check {interpreter} in the root",
    )


def _explain_elf(head: bytes, error: OSError) -> tuple[str, str]:
    order = "big" if head[5] == 2 else "little"
    if error.errno == errno.ENOEXEC:
        name = elf_machine(head) or f"machine type {machine_number(head)}"
        return (
            f"{reason(error)}: it is a program for {name}, this is {os.uname().machine}",
            "use a root for this machine",
        )
    loader = _dynamic_loader(head, order)
    if loader and not os.path.exists(loader):
        return (
            f"its dynamic loader {loader} is not in the root",
            "install the C library in the root",
        )
    return reason(error), ""


def _dynamic_loader(head: bytes, order: str) -> str:
    """Return the path in PT_INTERP of an ELF file; empty without one: elf(5)."""

    def field(at: int, size: int) -> int:
        return int.from_bytes(head[at : at + size], order)  # type: ignore[arg-type]

    is_64_bit = head[4] == 2  # ELFCLASS64
    word = 8 if is_64_bit else 4
    offset = field(32 if is_64_bit else 28, word)
    size, count = field(54 if is_64_bit else 42, 2), field(56 if is_64_bit else 44, 2)
    for header in range(offset, offset + size * count, size or 1):
        if field(header, 4) == 3:  # PT_INTERP
            start = field(header + word, word)
            length = field(header + (32 if is_64_bit else 16), word)
            return os.fsdecode(head[start : start + length].rstrip(b"\0"))
    return ""
