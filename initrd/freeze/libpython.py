"""Say how to compile and link /init with this Python in it.

    libpython.py include
    libpython.py kind|link ANALYSIS_JSON

There are three kinds of /init; the first that this Python allows is made:

static: all in one program, where libpython is there as an archive and has all the C modules built
in that /init imports (Debian's). There is nothing to load when it starts.

dynamic: the interpreter is linked in, but C modules that are files need the C library to be a
shared one. It is packed.

shared: there is no archive of libpython. The shared one is packed, and must be relocated.
"""

import json
import os
import sys
import sysconfig
from pathlib import Path

KINDS = ("static", "dynamic", "shared")
# No interpreter is named: the launcher is what the kernel starts. Extensions need the symbols.
LOADED = ("-Wl,--no-dynamic-linker", "-Wl,--export-dynamic", "-Wl,--disable-new-dtags")
RUNTIME_DIRECTORY = "/.initrd"  # as in freeze.h


def variable(name: str) -> str:
    """Return what this Python's build says."""
    return sysconfig.get_config_var(name) or ""


def archive() -> str:
    """Return the path of the static libpython; nothing if there is none."""
    path = os.path.join(variable("LIBPL"), variable("LIBRARY"))
    return path if os.path.isfile(path) else ""


def kind(analysis: dict[str, list[list[str]]], *, has_archive: bool, wanted: str = "") -> str:
    """Return one of KINDS: the first that works and does not come before `wanted`."""
    if wanted not in ("", *KINDS):
        raise ValueError(f"FREEZE_KIND={wanted}: choose one of {', '.join(KINDS)}")
    works = {"static": has_archive and not analysis["all_extensions"], "dynamic": has_archive}
    allowed = KINDS[KINDS.index(wanted) if wanted else 0 :]
    return next(name for name in allowed if works.get(name, True))


def link(name: str) -> list[str]:
    """Return the linker's arguments for one of KINDS."""
    if name == "static":
        return ["-static", "-Wl,--wrap=dlopen", archive(), "-lm"]
    options = [*LOADED, f"-Wl,-rpath,{RUNTIME_DIRECTORY}"]
    if name == "dynamic":
        return [archive(), "-lm", *options]
    directory = variable("LIBDIR")
    library = variable("LDLIBRARY").removeprefix("lib").removesuffix(".so")
    return [f"-L{directory}", f"-Wl,-rpath-link,{directory}", f"-l{library}", *options]


def main(question: str, *files: str) -> None:
    """Print the answer to one question."""
    if question == "include":
        print(sysconfig.get_path("include"))
        return
    analysis = json.loads(Path(files[0]).read_text())
    wanted = os.environ.get("FREEZE_KIND", "")
    found = kind(analysis, has_archive=bool(archive()), wanted=wanted)
    print(*(link(found) if question == "link" else [found]))


if __name__ == "__main__":
    main(*sys.argv[1:])
