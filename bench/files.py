"""Files through virtiofs: what chrootvm asks of virtiofsd against virtiofsd's own defaults.

    python3 -m bench.files [--full] [--runs N] [--family c|rust] [-- OPTION...]

With options, those are measured in the place of chrootvm's: they are added to virtiofsd's own
defaults. The two boot in turn, so that both meet the same load; a ratio is the median over the
pairs. It is the guest's own clock that measures.
"""

import argparse
import os
import shlex
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from bench.figure import Figure
from initrd.host.virtiofsd import sandbox
from testbed import assets

CHROOTVM = "scripts/chrootvm"
FAMILIES = {"c": assets.c_virtiofsd, "rust": assets.rust_virtiofsd}
DEADLINE = 600.0  # seconds
A_FOLDER, PACKED = 100, 5  # files in it; folders in the tarball
PACKAGES = "asyncio, concurrent.futures, ctypes, curses, dbm, email.mime.text, http.server, json"
MORE = (
    "logging.config, multiprocessing, pydoc, sqlite3, ssl, tarfile, unittest.mock, urllib.request"
)

# What remains of chrootvm's words are those without which the server would not serve the same.
WRAPPER = """#!/bin/sh
for word; do
    shift
    case $word in
    --help | -f | -o | --fd=* | --shared-dir=* | --readonly | --inode-file-handles=*) ;;
    source=*) word=${word%%,*},sandbox=chroot ;;
    *) continue ;;
    esac
    set -- "$@" "$word"
done
"""

# The guest's script: each line says what was done, and the guest's clock before and after.
TIMED = """
timed() {
    name=$1; shift
    read -r begin _ </proc/uptime; "$@" >/dev/null || exit; read -r end _ </proc/uptime
    echo "$name $begin $end"
}
"""


@dataclass(frozen=True)
class Size:
    """How much there is to be worked on."""

    megabytes: int = 100  # of the big file
    folders: int = 50  # of small files; virtiofsd has each one open that the guest knows of


FULL = Size(500, 500)
RESERVED = 5000  # files that a virtiofsd has open besides those


@dataclass(frozen=True)
class Kind:
    """A way to have a root, and what is done there."""

    name: str
    options: tuple[str, ...]
    script: str


READING = f"""
timed "read a big file" dd if=/data/big bs=1M status=none
timed "read it again" dd if=/data/big bs=1M status=none
timed "find, small files" find /data/small -size +1
timed "find, again" find /data/small -size +1
timed "import" python3 -c 'import {PACKAGES}, {MORE}'
timed "import again" python3 -c 'import {PACKAGES}, {MORE}'
"""
UNPACKING = """
mkdir /data/out
timed "unpack a tarball" tar -xf /data/tar -C /data/out
timed "write a file" dd if=/dev/zero of=/data/out/written bs=64k count=800 status=none
rm -r /data/out
"""
KINDS = (
    Kind("read-only root", (), READING),
    Kind("--rw", ("--rw",), UNPACKING),
    Kind("--overlay", ("--overlay",), UNPACKING),
)


def full_size(family: str) -> Size:
    """Return what can be measured here: the one in C has all files open that the guest knows of."""
    possible = (sandbox.open_file_limit() - RESERVED) // A_FOLDER
    return FULL if family == "rust" else Size(FULL.megabytes, min(FULL.folders, possible))


@contextmanager
def filled_root(size: Size) -> Iterator[str]:
    """Make a copy of a Debian root, with files to be worked on in /data."""
    with tempfile.TemporaryDirectory(prefix="bench-files-") as top:
        root = f"{top}/root"
        copy = ["cp", "-a", "--reflink=auto", assets.debian_root(), root]
        subprocess.run(copy, check=True)
        fill(Path(root, "data"), size)
        yield root


def fill(data: Path, size: Size) -> None:
    """Make a big file, many small ones, and a tarball."""
    for number in range(size.folders):
        folder = data / "small" / f"{number}"
        folder.mkdir(parents=True)
        for name in range(A_FOLDER):
            (folder / f"{name}").write_bytes(b"content\n" * (10 * name))
    with open(data / "big", "wb") as file:
        for _ in range(size.megabytes):
            file.write(os.urandom(1_000_000))
    with tarfile.open(data / "tar", "w") as archive:
        for number in range(PACKED):
            archive.add(data / "small" / f"{number}", f"{number}")


@contextmanager
def server(program: str, options: Sequence[str] | None) -> Iterator[str]:
    """Give a virtiofsd with its defaults and these options; None: as chrootvm would run it."""
    if options is None:
        yield program
        return
    with tempfile.TemporaryDirectory() as top:
        path = Path(top, "virtiofsd")
        command = f'exec {shlex.quote(program)} "$@" {shlex.join(options)}\n'
        path.write_text(WRAPPER + command)
        path.chmod(0o755)
        yield str(path)


def once(virtiofsd: str, root: str, kind: Kind) -> dict[str, float]:
    """Boot, and return how long each piece of work took, in seconds."""
    script = ("--", "sh", "-c", TIMED + kind.script)
    command = [sys.executable, CHROOTVM, "--virtiofsd", virtiofsd, *kind.options, root, *script]
    return clocked(subprocess.check_output(command, input="", text=True, timeout=DEADLINE))


def clocked(output: str) -> dict[str, float]:
    """Return what the guest's lines say, in seconds; the clock has hundredths."""
    lines = [line.rsplit(" ", 2) for line in output.splitlines()]
    return {name: max(float(end) - float(begin), 0.01) for name, begin, end in lines}


def ratios(
    first: str, second: str, root: str, kind: Kind, runs: int
) -> dict[str, tuple[float, float]]:
    """Return the median seconds of the first, and the median of first/second over the pairs."""
    pairs = [(once(first, root, kind), once(second, root, kind)) for _ in range(runs)]
    return {
        name: (
            median(one[name] for one, _ in pairs),
            median(one[name] / other[name] for one, other in pairs),
        )
        for name in pairs[0][0]
    }


def measure(
    family: str, root: str, runs: int, options: Sequence[str] | None = None
) -> Iterator[Figure]:
    """Measure a family of virtiofsd with each kind of root."""
    program = FAMILIES[family]()
    with server(program, options) as ours, server(program, ()) as plain:
        for kind in KINDS:
            for name, (taken, ratio) in ratios(ours, plain, root, kind, runs).items():
                full = f"{family} virtiofsd, {kind.name}: {name}"
                yield Figure(full, taken, "s")
                yield Figure(f"{full}, against its defaults", ratio)


def figures(_runs: int) -> list[Figure]:
    """Measure both families as chrootvm runs them; a single pair, for a boot takes its time."""
    with filled_root(Size()) as root:
        return [figure for family in FAMILIES for figure in measure(family, root, 1)]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--full", action="store_true", help="500 MB, and 50,000 small files")
    parser.add_argument("--runs", type=int, default=3, help="pairs of boots")
    parser.add_argument("--family", choices=FAMILIES, action="append", help="default: both")
    parser.add_argument("option", nargs="*", help="of virtiofsd, after --")
    given = parser.parse_args()
    for family in given.family or FAMILIES:
        with filled_root(full_size(family) if given.full else Size()) as root:
            for figure in measure(family, root, given.runs, given.option or None):
                print(figure.row(), flush=True)


if __name__ == "__main__":
    main()
