"""Run the tests of a copy of the sources where changed code can do no harm.

The tests run as processes of a namespace of their own, so that they can signal no other process.
All file systems are read-only but the directory of the copy, and a /tmp of their own. They have no
right to set the clock or to reboot.
"""

import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

_IGNORED = shutil.ignore_patterns(
    ".*", "__pycache__", "build", "dist", "vendor", "cache", "*.egg-info"
)
# $1: the directory that can be written to; $2: that of Python and its packages; $3: the working
# directory. The rest is the command. Both directories may be in /tmp, and stay there.
_ENTER = """
top=$1 python=$2 sources=$3; shift 3
exec 8<"$top" 9<"$python"
mount -t tmpfs -o mode=1777 tmpfs /tmp
mkdir -p "$top" "$python"
mount --no-canonicalize --bind /proc/self/fd/8 "$top" # not the new, empty directory of this name
mount --no-canonicalize --bind /proc/self/fd/9 "$python"
exec 8<&- 9<&-
mounts=$(while read -r _ target _; do echo "$target"; done </proc/self/mounts)
for target in $mounts; do
    case $target in
    /proc* | /dev*) ;;
    *) mount -o remount,bind,ro "$target" 2>/dev/null || : ;;
    esac
done
mount -o remount,bind,rw "$top"
mount -o remount,bind,rw /tmp
cd "$sources"
exec "$@"
"""
_MAX_BASELINE = 900.0  # seconds for all unit tests
_DURATION = re.compile(r"([0-9.]+)s (?:call|setup|teardown) +(.*?)::")
_NAMESPACES = ("unshare", "-Urmpf", "--mount-proc", "--kill-child", "--propagation", "private")
_PYTEST = (
    "-m",
    "pytest",
    "-q",
    "-p",
    "no:cacheprovider",
    "-m",
    "not boot and not built and not tools",
)


class Sandbox:
    """A copy of the sources, in which one file is changed at a time."""

    def __init__(self, checkout: Path, place: Path) -> None:
        """`place`: the path of a new directory."""
        self._place, self.sources = place, place / "sources"
        shutil.copytree(checkout, self.sources, ignore=_IGNORED)
        extension = checkout / "initrd/guest/_syscalls.abi3.so"  # a symbolic link to build/
        (self.sources / "initrd/guest" / extension.name).unlink()
        shutil.copy(extension, self.sources / "initrd/guest")

    def run(self, words: list[str], seconds: float) -> str:
        """Run pytest with these words; return the result: see `run_confined`."""
        return run_confined(self._place, self.sources, words, seconds)

    def measure(self, jobs: int) -> "Baseline":
        """Run all unit tests without a change. Raises TimeoutExpired."""
        return measure(self._place, self.sources, [f"-n{jobs}"])


def run_confined(place: Path, sources: Path, words: list[str], seconds: float) -> str:
    """Run pytest with `words` in `sources`, where only `place` can be written to.

    Returns `passed`, `failed`, `timeout`, or `error: ` and the output.
    """
    try:
        done = _run(place, sources, ["-x", *words], seconds)
    except subprocess.TimeoutExpired:
        return "timeout"
    if done.returncode == 0:
        return "passed"
    # 1: a test has failed; 2: a test file cannot be imported
    if done.returncode in (1, 2):
        return "failed"
    return f"error: {done.stdout[-500:]}"


@dataclass(frozen=True)
class Baseline:
    """What the tests do without a change."""

    failing: tuple[str, ...]  # names of tests; some need other users or devices
    durations: dict[str, float]  # seconds, by file


def measure(place: Path, sources: Path, words: list[str]) -> Baseline:
    """Run pytest with `words`, as `run_confined` does. Raises TimeoutExpired."""
    options = ["--tb=no", "-rfE", "--durations=0", "--durations-min=0.005"]
    lines = _run(place, sources, [*options, *words], _MAX_BASELINE).stdout.splitlines()
    failing = [
        line.partition(" ")[2].partition(" - ")[0]
        for line in lines
        if line.startswith(("FAILED ", "ERROR "))
    ]
    durations: dict[str, float] = {}
    for found in filter(None, map(_DURATION.match, lines)):
        seconds, name = found.groups()
        durations[name] = durations.get(name, 0.0) + float(seconds)
    return Baseline(tuple(failing), durations)


def _run(
    place: Path, sources: Path, words: list[str], seconds: float
) -> subprocess.CompletedProcess[str]:
    variables = {"TMPDIR": "/tmp", "HOME": "/tmp", "PYTHONDONTWRITEBYTECODE": "1"}
    confine = [*_NAMESPACES, "sh", "-ec", _ENTER, "sh", str(place), sys.prefix, str(sources)]
    return subprocess.run(
        [*confine, sys.executable, *_PYTEST, *words],
        env={**os.environ, **variables},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=seconds,
        check=False,
        start_new_session=True,  # kill(0, …) reaches the process group, also outside of a namespace
        text=True,
        errors="replace",
    )
