"""Pack the shared objects of /init into newc archives, which unpack.c unpacks.

    payload.py ANALYSIS_JSON PROGRAM DIRECTORY

writes DIRECTORY/libraries.cpio (the dynamic loader, the extension modules of every start, and the
libraries that PROGRAM and these modules need; empty for a static PROGRAM) and
DIRECTORY/extensions.cpio (the other extension modules, and the libraries that only these need). The
same input files give the same bytes.
"""

import json
import os
import re
import struct
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterable
from pathlib import Path

from initrd.host.image import cpio

STRIP = os.environ.get("STRIP", "strip")
LOADER = "ld.so"  # RUNTIME_LOADER of freeze.h
PT_DYNAMIC, DT_RPATH, DT_RUNPATH = 2, 15, 29


def interpreter() -> str:
    """Return the path of the running Python's dynamic loader. Raises SystemExit if it has none."""
    headers = _run("readelf", "-lW", os.path.realpath(sys.executable))
    found = re.search(r"program interpreter: (\S+)\]", headers)
    if not found:
        raise SystemExit(f"payload: {sys.executable} has no dynamic loader; use a dynamic Python")
    return found[1]


def needed(loader: str, file: str) -> dict[str, str]:
    """Return the shared objects that `file` needs, directly or not: name to path."""
    libdir = sysconfig.get_config_var("LIBDIR")  # of the running Python, which has its libpython
    listing = _run(loader, "--library-path", libdir, "--list", file)
    return dict(re.findall(r"^\s*(\S+) => (\S+) \(", listing, re.MULTILINE))


def _run(*command: str) -> str:
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def dynamic_section(elf: bytes) -> slice:
    """Return the place of a 64-bit ELF file's dynamic section; an empty slice if it has none."""
    (headers,) = struct.unpack_from("=Q", elf, 32)  # elf(5)
    size, count = struct.unpack_from("=HH", elf, 54)
    for at in range(headers, headers + size * count, size):
        kind, _, offset, _, _, length = struct.unpack_from("=IIQQQQ", elf, at)
        if kind == PT_DYNAMIC:
            return slice(offset, offset + length)
    return slice(0, 0)


def without_search_path(elf: bytes) -> bytes:
    """Return a shared object without DT_RPATH and DT_RUNPATH, which name directories of the build.

    With a DT_RUNPATH in the object, the dynamic loader would ignore the search path of /init.
    """
    place = dynamic_section(elf)
    entries = list(struct.iter_unpack("=qQ", elf[place]))
    kept = [entry for entry in entries if entry[0] not in (DT_RPATH, DT_RUNPATH)]
    kept += [(0, 0)] * (len(entries) - len(kept))
    section = b"".join(struct.pack("=qQ", *entry) for entry in kept)
    return elf[: place.start] + section + elf[place.stop :]


def stripped(path: str) -> bytes:
    """Return a shared object without the symbols that only debuggers and linkers read."""
    with tempfile.NamedTemporaryFile() as output:
        subprocess.run([STRIP, "--strip-unneeded", "-o", output.name, path], check=True)
        return Path(output.name).read_bytes()


def closure(loader: str, files: Iterable[str]) -> dict[str, str]:
    """Return the shared objects that `files` need, without the dynamic loader: name to path."""
    found: dict[str, str] = {}
    for file in files:
        found |= needed(loader, file)
    return found


def archive(members: dict[str, str]) -> bytes:
    """Return a newc archive of stripped shared objects: name in the archive to source path."""
    return cpio.pack(
        cpio.file(name, without_search_path(stripped(path)), 0o755)
        for name, path in members.items()
    )


def _by_name(files: Iterable[str]) -> dict[str, str]:
    return {os.path.basename(file): file for file in files}


def members(analysis: dict[str, list[list[str]]], program: str) -> tuple[dict[str, str], ...]:
    """Return the files of libraries.cpio and of extensions.cpio: name in the archive to path."""
    if dynamic_section(Path(program).read_bytes()) == slice(0, 0):
        return {}, {}
    loader = interpreter()
    start = [path for _, path in analysis["start_extensions"]]
    rest = [path for _, path in analysis["all_extensions"]]
    libraries = closure(loader, [program, *start]) | _by_name(start)
    extensions = closure(loader, rest) | _by_name(rest)
    for name in libraries:
        extensions.pop(name, None)
    return {**libraries, LOADER: loader}, extensions


if __name__ == "__main__":
    analysis_file, program_file, directory = sys.argv[1:]
    packed = members(json.loads(Path(analysis_file).read_text()), program_file)
    for name, files in zip(("libraries", "extensions"), packed, strict=True):
        Path(directory, f"{name}.cpio").write_bytes(archive(files))
