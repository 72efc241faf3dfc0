"""Build /init for another architecture: make runs in a Debian root of it, which QEMU emulates.

    python3 -m testbed.foreign_init aarch64 dist/init-aarch64

PyInstaller and pyroute2 are those of the running Python: they are written in Python. The result is
kept in $CACHE, by a digest of all that it is made from, and then copied.
"""

import glob
import hashlib
import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

from testbed import assets
from testbed.emulation import ELF_NUMBERS, EmulationError, run_in_root

TOP = Path(__file__).resolve().parent.parent
SOURCES = (
    "Makefile",
    "constraints.txt",
    "initrd/*.py",
    "initrd/guest/**/*.py",
    "initrd/guest/*.pyi",
    "initrd/freeze/*.*",
    "initrd/host/__init__.py",
    "initrd/host/image/__init__.py",
    "initrd/host/image/cpio.py",  # which writes the payload
)
PACKAGES = (
    "bash",  # for ldd, which PyInstaller runs
    "binutils",
    "coreutils",
    "dash",
    "gcc",
    "libc-bin",
    "libc6-dev",
    "make",
    "python3",
    "python3-dev",
    "sed",
)
SUITE, PYTHON = "bookworm", "python3.11"
PURELIB = f"usr/local/lib/{PYTHON}/dist-packages"
# Links in the root: one that a package's script would make; PyInstaller calls ldconfig, which would
# report that it has no cache.
LINKS = (("usr/bin/cc", "gcc"), ("sbin/ldconfig", "/bin/true"))
PLACES = ("dev", "proc", "tmp", "src", PURELIB)  # directories of the root to mount others on


def build(architecture: str) -> str:
    """Return the path of the /init for an architecture. Raises EmulationError."""
    if architecture not in ELF_NUMBERS:
        names = " and ".join(sorted(ELF_NUMBERS))
        raise EmulationError(f"/init is built for {names}, and not for {architecture}")
    sources = sorted(path for name in SOURCES for path in _find(name))
    digest = hashlib.sha256()
    for path in sources:
        digest.update(f"{path}\0".encode() + (TOP / path).read_bytes() + b"\0")

    def make(top: str) -> None:
        for path in sources:
            os.makedirs(os.path.dirname(f"{top}/src/{path}"), exist_ok=True)
            shutil.copyfile(TOP / path, f"{top}/src/{path}")
        _run_make(architecture, f"{top}/src")
        shutil.move(f"{top}/src/dist/init", f"{top}/init")
        shutil.rmtree(f"{top}/src")

    root = os.path.basename(build_root(architecture))
    return f"{assets.make_once(f'init-{architecture}', make, root, digest.hexdigest())}/init"


def build_root(architecture: str) -> str:
    """Return the path of a root directory with all that the build needs."""

    def make(top: str) -> None:
        assets.unpack(SUITE, architecture, top, PACKAGES)
        for place in PLACES:
            os.makedirs(f"{top}/{place}", exist_ok=True)
        for path, target in LINKS:
            Path(f"{top}/{path}").unlink(missing_ok=True)
            os.symlink(target, f"{top}/{path}")

    recipe = (SUITE, *PACKAGES, *PLACES, *(word for link in LINKS for word in link))
    return assets.make_once(f"build-root-{architecture}", make, *recipe)


def _find(pattern: str) -> list[str]:
    return glob.glob(pattern, root_dir=TOP, recursive=True)


def _run_make(architecture: str, source: str) -> None:
    """Run `make dist/init` in the build root, on a copy of the sources."""
    up_to_date = ("packages-build", "build/venv/.installed")  # these are not to be made
    options = [word for target in up_to_date for word in ("-o", target)]
    variables = ("VENV_PYTHON=python3", f"-j{os.cpu_count()}")
    command = ("make", "-C", "/src", *variables, *options, "dist/init")
    directories = {source: "/src", sysconfig.get_path("purelib"): f"/{PURELIB}"}
    run_in_root(build_root(architecture), architecture, command, directories)


def main(architecture: str, output: str) -> int:
    """Build and copy /init; return the exit status."""
    try:
        built = build(architecture)
    except (EmulationError, subprocess.CalledProcessError) as error:
        why = error if isinstance(error, EmulationError) else "a command in the root has failed"
        print(f"cannot build {output}: {why}", file=sys.stderr)
        return 1
    os.makedirs(os.path.dirname(output) or ".", exist_ok=True)
    shutil.copy(built, output)
    os.utime(output)
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
