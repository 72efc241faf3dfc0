"""Run scripts/chrootvm in a test, and list the processes, files and mounts that it leaves."""

import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from testbed import assets
from tests.boot import start_chrootvm

COMMAND = (sys.executable, start_chrootvm.__file__)
DEADLINE = 180.0  # seconds; a boot takes three, and ten times that on a slow machine
MARKER = "CHROOTVM_TEST"  # environment variable of chrootvm and of all its descendants


class Session:
    """One running chrootvm, with its standard streams.

    An environment variable with the test's directory as its value marks chrootvm and every
    process that it starts.
    """

    def __init__(self, words: tuple[str, ...], folder: Path, **streams: int) -> None:
        self.marker = f"{MARKER}={folder}"
        self.folder = folder
        self.mounts_before = self._list_mounts()
        environment = {**os.environ, MARKER: str(folder), "TMPDIR": str(folder)}
        pipe = subprocess.PIPE
        streams = {"stdin": subprocess.DEVNULL, "stdout": pipe, "stderr": pipe, **streams}
        self.process = subprocess.Popen([*COMMAND, *words], env=environment, **streams)
        self.output = b""

    def expect(self, text: str) -> None:
        """Read standard output until it contains `text`."""
        assert self.process.stdout
        deadline = time.monotonic() + DEADLINE
        while text.encode() not in self.output:
            timeout = max(0, deadline - time.monotonic())
            assert select.select([self.process.stdout], [], [], timeout)[0], self.output
            data = os.read(self.process.stdout.fileno(), 65536)
            assert data, (self.output, self.process.stderr and self.process.stderr.read())
            self.output += data

    def finish(self) -> tuple[int, str, str]:
        """Wait until chrootvm exits; return its exit status, standard output and standard error."""
        output, errors = self.process.communicate(timeout=DEADLINE)
        text = (self.output + (output or b"")).decode(errors="replace").replace("\r", "")
        return self.process.returncode, text, (errors or b"").decode(errors="replace")

    def find_pid(self, name: str) -> int:
        """Return the lowest pid among chrootvm's descendants whose command contains `name`."""
        descendants = [pid for pid in self.running_pids() if pid != self.process.pid]
        return next(pid for pid in descendants if name in read_command(pid))

    def running_pids(self) -> list[int]:
        """Return the pids of chrootvm and its descendants that still run, in ascending order."""
        pids = sorted(int(name) for name in os.listdir("/proc") if name.isdigit())
        return [pid for pid in pids if self.marker.encode() in read_environment(pid)]

    def leftovers(self) -> list[str]:
        """Return the processes, files and mounts that are left after chrootvm has exited."""
        deadline = time.monotonic() + DEADLINE  # the kernel kills orphans some time after the exit
        while self.running_pids() and time.monotonic() < deadline:
            time.sleep(0.02)
        processes = [read_command(pid) for pid in self.running_pids()]
        files = [path.name for path in self.folder.iterdir() if "chrootvm-" in path.name]
        return [*processes, *files, *(self._list_mounts() - self.mounts_before)]

    def _list_mounts(self) -> set[str]:
        """Return this machine's mounts that name the asset cache or the test's directory.

        Other mounts may come from other programs.
        """
        with open("/proc/self/mountinfo", encoding="utf-8") as file:
            return {line for line in file if assets.cache() in line or str(self.folder) in line}


@contextmanager
def chrootvm(*words: str, folder: Path, **streams: int) -> Iterator[Session]:
    """Start chrootvm; kill it and its descendants when the block ends."""
    session = Session(words, folder, **streams)
    try:
        yield session
    finally:
        session.process.kill()
        session.process.communicate()
        for pid in session.running_pids():
            os.kill(pid, signal.SIGKILL)


def run(*words: str, folder: Path) -> tuple[int, str, str]:
    """Run chrootvm until it exits; return its exit status, standard output and standard error."""
    with chrootvm(*words, folder=folder) as session:
        result = session.finish()
        assert session.leftovers() == []
        return result


def used_templates(cache: str, since: int) -> list[Path]:
    """Return the templates in a cache that were made or used since a time, in nanoseconds."""
    templates = Path(cache).glob("initrd/templates/*.template")
    return [path for path in templates if path.stat().st_atime_ns >= since]


def read_environment(pid: int) -> list[bytes]:
    """Return the initial environment of a process; an empty list if the process is gone."""
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:
            return file.read().split(b"\0")
    except OSError:
        return []


def read_command(pid: int) -> str:
    """Return the command line of a process; an empty string if the process is gone."""
    try:
        with open(f"/proc/{pid}/cmdline", encoding="utf-8", errors="replace") as file:
            return file.read().replace("\0", " ")
    except OSError:
        return ""
