"""Time file operations on virtiofs: chrootvm's virtiofsd options against virtiofsd's defaults.

    python3 -m bench.virtiofs [--full] [--runs N] [--family c|rust] [-- OPTION...]

With OPTION, virtiofsd's defaults and the given options are measured instead of chrootvm's options.
The two configurations boot alternately, so that both run under the same load; a ratio is the median
over the pairs. Times are from the guest's clock.
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
TIMEOUT = 600.0  # seconds
FILES_PER_DIRECTORY = 100
TARBALL_DIRECTORIES = 5
PYTHON_MODULES = (
    "asyncio, concurrent.futures, ctypes, curses, dbm, email.mime.text, http.server, json, "
    "logging.config, multiprocessing, pydoc, sqlite3, ssl, tarfile, unittest.mock, urllib.request"
)

# A wrapper of virtiofsd that removes chrootvm's options, except those for the directory, the
# socket, the access and the limit of open files. `virtiofsd_program` appends the last command.
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

# A shell function of the guest: run a command, and print its name and the clock before and after.
TIMED_FUNCTION = """
timed() {
    name=$1; shift
    read -r begin _ </proc/uptime; "$@" >/dev/null || exit; read -r end _ </proc/uptime
    echo "$name $begin $end"
}
"""


@dataclass(frozen=True)
class Size:
    """The amount of data in the root."""

    megabytes: int = 100  # of the big file
    directories: int = 50  # of small files


FULL = Size(500, 500)
RESERVED_FILES = 5000  # open files of a virtiofsd in addition to the small files


@dataclass(frozen=True)
class Scenario:
    """Options of chrootvm, and the operations to be timed in the guest."""

    name: str
    options: tuple[str, ...]
    script: str


READING = f"""
timed "read a big file" dd if=/data/big bs=1M status=none
timed "read it again" dd if=/data/big bs=1M status=none
timed "find, small files" find /data/small -size +1
timed "find, again" find /data/small -size +1
timed "import" python3 -c 'import {PYTHON_MODULES}'
timed "import again" python3 -c 'import {PYTHON_MODULES}'
"""
UNPACKING = """
mkdir /data/out
timed "unpack a tarball" tar -xf /data/tar -C /data/out
timed "write a file" dd if=/dev/zero of=/data/out/written bs=64k count=800 status=none
rm -r /data/out
"""
SCENARIOS = (
    Scenario("read-only root", (), READING),
    Scenario("--rw", ("--rw",), UNPACKING),
    Scenario("--overlay", ("--overlay",), UNPACKING),
)


def full_size(family: str) -> Size:
    """Return the size for --full, within the limit of open files.

    The virtiofsd in C keeps a file open for each one that the guest has in its cache.
    """
    possible = (sandbox.open_file_limit() - RESERVED_FILES) // FILES_PER_DIRECTORY
    return FULL if family == "rust" else Size(FULL.megabytes, min(FULL.directories, possible))


@contextmanager
def filled_root(size: Size) -> Iterator[str]:
    """Create a temporary copy of a Debian root with test files in /data; yield its path."""
    with tempfile.TemporaryDirectory(prefix="bench-files-") as directory:
        root = f"{directory}/root"
        copy = ["cp", "-a", "--reflink=auto", assets.debian_root(), root]
        subprocess.run(copy, check=True)
        fill(Path(root, "data"), size)
        yield root


def fill(data: Path, size: Size) -> None:
    """Create a big file, small files in directories, and a tarball of small files."""
    for number in range(size.directories):
        directory = data / "small" / f"{number}"
        directory.mkdir(parents=True)
        for name in range(FILES_PER_DIRECTORY):
            (directory / f"{name}").write_bytes(b"content\n" * (10 * name))
    with open(data / "big", "wb") as file:
        for _ in range(size.megabytes):
            file.write(os.urandom(1_000_000))
    with tarfile.open(data / "tar", "w") as archive:
        for number in range(TARBALL_DIRECTORIES):
            archive.add(data / "small" / f"{number}", f"{number}")


@contextmanager
def virtiofsd_program(program: str, options: Sequence[str] | None) -> Iterator[str]:
    """Yield the path of a virtiofsd that runs with its defaults and `options`.

    With None it runs with the options of chrootvm.
    """
    if options is None:
        yield program
        return
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory, "virtiofsd")
        command = f'exec {shlex.quote(program)} "$@" {shlex.join(options)}\n'
        path.write_text(WRAPPER + command)
        path.chmod(0o755)
        yield str(path)


def boot(virtiofsd: str, root: str, scenario: Scenario) -> dict[str, float]:
    """Boot, and return the duration of each operation, in seconds."""
    script = ("--", "sh", "-c", TIMED_FUNCTION + scenario.script)
    command = [sys.executable, CHROOTVM, "--virtiofsd", virtiofsd, *scenario.options, root, *script]
    return durations(subprocess.check_output(command, input="", text=True, timeout=TIMEOUT))


def durations(output: str) -> dict[str, float]:
    """Parse the output of the guest: operation to seconds, at least the clock's resolution."""
    lines = [line.rsplit(" ", 2) for line in output.splitlines()]
    return {name: max(float(end) - float(begin), 0.01) for name, begin, end in lines}


def ratios(
    first: str, second: str, root: str, scenario: Scenario, runs: int
) -> dict[str, tuple[float, float]]:
    """Return for each operation the median seconds of `first`, and the median of first/second."""
    pairs = [(boot(first, root, scenario), boot(second, root, scenario)) for _ in range(runs)]
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
    """Measure a family of virtiofsd in each scenario."""
    program = FAMILIES[family]()
    with virtiofsd_program(program, options) as first, virtiofsd_program(program, ()) as second:
        for scenario in SCENARIOS:
            for name, (seconds, ratio) in ratios(first, second, root, scenario, runs).items():
                label = f"{family} virtiofsd, {scenario.name}: {name}"
                yield Figure(label, seconds, "s")
                yield Figure(f"{label}, against its defaults", ratio)


def figures(_runs: int) -> list[Figure]:
    """Measure both families with the options of chrootvm; one pair of boots for each scenario."""
    with filled_root(Size()) as root:
        return [figure for family in FAMILIES for figure in measure(family, root, 1)]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--full", action="store_true", help="500 MB, and 50,000 small files")
    parser.add_argument("--runs", type=int, default=3, help="pairs of boots")
    parser.add_argument("--family", choices=FAMILIES, action="append", help="default: both")
    parser.add_argument("option", nargs="*", help="of virtiofsd, after --")
    arguments = parser.parse_args()
    for family in arguments.family or FAMILIES:
        with filled_root(full_size(family) if arguments.full else Size()) as root:
            for figure in measure(family, root, arguments.runs, arguments.option or None):
                print(figure.row(), flush=True)


if __name__ == "__main__":
    main()
