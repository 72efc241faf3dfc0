"""Print the compiler's and linker's arguments that build /init from the running Python.

    libpython.py include
    libpython.py kind|link ANALYSIS_JSON

There are three kinds of /init. The first one that the running Python permits is built:

static: a static program. Requires libpython as an archive that contains all C modules which /init
imports (Debian's does). No shared library is loaded at the start.

dynamic: libpython is linked in from its archive, but some C modules are files. They need a shared C
library, which is packed into /init.

shared: libpython exists only as a shared library. It is packed into /init, and relocated at each
start.
"""

import json
import os
import sys
import sysconfig
from pathlib import Path

KINDS = ("static", "dynamic", "shared")
# No PT_INTERP: the kernel starts launcher.c. Extension modules need the exported symbols.
DYNAMIC_OPTIONS = ("-Wl,--no-dynamic-linker", "-Wl,--export-dynamic", "-Wl,--disable-new-dtags")
RUNTIME_DIRECTORY = "/.initrd"  # as in freeze.h


def config_var(name: str) -> str:
    """Return a configuration variable of the running Python; empty if it is not set."""
    return sysconfig.get_config_var(name) or ""


def archive() -> str:
    """Return the path of the static libpython; empty if there is none."""
    path = os.path.join(config_var("LIBPL"), config_var("LIBRARY"))
    return path if os.path.isfile(path) else ""


def kind(analysis: dict[str, list[list[str]]], *, has_archive: bool, requested: str = "") -> str:
    """Return the first of KINDS, from `requested` on, that works. Raises ValueError otherwise."""
    if requested not in ("", *KINDS):
        raise ValueError(f"FREEZE_KIND={requested}: choose one of {', '.join(KINDS)}")
    works = {"static": has_archive and not analysis["all_extensions"], "dynamic": has_archive}
    allowed = KINDS[KINDS.index(requested) if requested else 0 :]
    return next(name for name in allowed if works.get(name, True))


def link(name: str) -> list[str]:
    """Return the linker's arguments for one of KINDS."""
    if name == "static":
        return ["-static", "-Wl,--wrap=dlopen", archive(), "-lm"]
    options = [*DYNAMIC_OPTIONS, f"-Wl,-rpath,{RUNTIME_DIRECTORY}"]
    if name == "dynamic":
        return [archive(), "-lm", *options]
    directory = config_var("LIBDIR")
    library = config_var("LDLIBRARY").removeprefix("lib").removesuffix(".so")
    return [f"-L{directory}", f"-Wl,-rpath-link,{directory}", f"-l{library}", *options]


def main(item: str, *files: str) -> None:
    """Print one item: `include`, `kind` or `link`."""
    if item == "include":
        print(sysconfig.get_path("include"))
        return
    analysis = json.loads(Path(files[0]).read_text())
    requested = os.environ.get("FREEZE_KIND", "")
    found = kind(analysis, has_archive=bool(archive()), requested=requested)
    print(*(link(found) if item == "link" else [found]))


if __name__ == "__main__":
    main(*sys.argv[1:])
