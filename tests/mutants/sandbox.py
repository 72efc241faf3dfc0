"""Run the tests of a copy of the sources where changed code can do no harm.

The tests run as processes of a namespace of their own, so that they can signal no other process,
and all file systems but the directory of the copy are read-only. They have no right to set the
clock or to reboot.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

_IGNORED = shutil.ignore_patterns(
    ".*", "__pycache__", "build", "dist", "vendor", "cache", "*.egg-info"
)
# $1: the directory that can be written to; $2: the working directory. The rest is the command.
_ENTER = """
top=$1 sources=$2; shift 2
mount --bind "$top" "$top"
mounts=$(while read -r _ target _; do echo "$target"; done </proc/self/mounts)
for target in $mounts; do
    case $target in
    /proc* | /dev*) ;;
    *) mount -o remount,bind,ro "$target" 2>/dev/null || : ;;
    esac
done
mount -o remount,bind,rw "$top"
mkdir -p "$top/tmp"
cd "$sources"
exec "$@"
"""
_NAMESPACES = ("unshare", "-Urmpf", "--mount-proc", "--kill-child", "--propagation", "private")
_PYTEST = ("-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", "-m", "not boot and not tools")


class Sandbox:
    """A copy of the sources, in which one file is changed at a time."""

    def __init__(self, checkout: Path, place: Path) -> None:
        """`place`: the path of a new directory."""
        self._place, self.sources = place, place / "sources"
        shutil.copytree(checkout, self.sources, ignore=_IGNORED)
        extension = checkout / "initrd/guest/_syscalls.abi3.so"  # a symbolic link to build/
        (self.sources / "initrd/guest" / extension.name).unlink()
        shutil.copy(extension, self.sources / "initrd/guest")
        (place / "tmp").mkdir()

    def run(self, tests: list[str], seconds: float) -> str:
        """Run test files; return the result: see `run_confined`."""
        try:
            return run_confined(self._place, self.sources, tests, seconds)
        finally:
            shutil.rmtree(self._place / "tmp", ignore_errors=True)
            (self._place / "tmp").mkdir(exist_ok=True)


def run_confined(place: Path, sources: Path, tests: list[str], seconds: float) -> str:
    """Run test files of `sources`, where only `place` can be written to.

    Returns `passed`, `failed`, `timeout`, or `error: ` and the output.
    """
    variables = {"TMPDIR": f"{place}/tmp", "HOME": f"{place}/tmp", "PYTHONDONTWRITEBYTECODE": "1"}
    command = [*_NAMESPACES, "sh", "-ec", _ENTER, "sh", str(place), str(sources)]
    try:
        done = subprocess.run(
            [*command, sys.executable, *_PYTEST, *tests],
            env={**os.environ, **variables},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=seconds,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return "timeout"
    if done.returncode == 0:
        return "passed"
    # 1: a test has failed; 2: a test file cannot be imported
    if done.returncode in (1, 2):
        return "failed"
    return f"error: {done.stdout[-500:].decode(errors='replace')}"
