"""Runs scripts/chrootvm as a user would, and looks for what it might leave behind."""

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

TOP = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
COMMAND = (sys.executable, os.path.join(TOP, "scripts/chrootvm"))
DEADLINE = 180.0  # seconds; a boot takes three of them, a slow machine ten times that
MARK = "CHROOTVM_TEST"


class Session:
    """One chrootvm that runs. All that it starts has a mark in its environment."""

    def __init__(self, words: tuple[str, ...], folder: Path, **streams: int) -> None:
        self.mark = f"{MARK}={folder}"
        self.folder = folder
        self.mounts = self._mounts()
        environment = {**os.environ, MARK: str(folder), "TMPDIR": str(folder)}
        pipe = subprocess.PIPE
        streams = {"stdin": subprocess.DEVNULL, "stdout": pipe, "stderr": pipe, **streams}
        self.process = subprocess.Popen([*COMMAND, *words], env=environment, **streams)
        self.output = b""

    def expect(self, text: str) -> None:
        """Wait until the guest has printed `text`."""
        assert self.process.stdout
        deadline = time.monotonic() + DEADLINE
        while text.encode() not in self.output:
            left = max(0, deadline - time.monotonic())
            assert select.select([self.process.stdout], [], [], left)[0], self.output
            data = os.read(self.process.stdout.fileno(), 65536)
            assert data, (self.output, self.process.stderr and self.process.stderr.read())
            self.output += data

    def finish(self) -> tuple[int, str, str]:
        """Wait for the end; return the exit status, the output and the errors."""
        output, errors = self.process.communicate(timeout=DEADLINE)
        text = (self.output + (output or b"")).decode(errors="replace").replace("\r", "")
        return self.process.returncode, text, (errors or b"").decode(errors="replace")

    def find(self, name: str) -> int:
        """Return the eldest process of chrootvm's that has this in its command."""
        others = [pid for pid in self.running() if pid != self.process.pid]
        return next(pid for pid in others if name in program_of(pid))

    def running(self) -> list[int]:
        """Return our processes that still run, chrootvm among them, the eldest first."""
        numbers = sorted(int(name) for name in os.listdir("/proc") if name.isdigit())
        return [pid for pid in numbers if self.mark.encode() in environment_of(pid)]

    def left(self) -> list[str]:
        """Return what is left after the end: processes, files, mounts."""
        deadline = time.monotonic() + DEADLINE  # orphans are ended by the kernel, not by us
        while self.running() and time.monotonic() < deadline:
            time.sleep(0.02)
        processes = [program_of(pid) for pid in self.running()]
        files = [path.name for path in self.folder.iterdir() if "chrootvm-" in path.name]
        return [*processes, *files, *(self._mounts() - self.mounts)]

    def _mounts(self) -> set[str]:
        """Return the mounts here of anything that chrootvm knows of; others mount things too."""
        with open("/proc/self/mountinfo", encoding="utf-8") as file:
            return {line for line in file if assets.cache() in line or str(self.folder) in line}


@contextmanager
def chrootvm(*words: str, folder: Path, **streams: int) -> Iterator[Session]:
    """Start chrootvm; it does not outlive the block."""
    session = Session(words, folder, **streams)
    try:
        yield session
    finally:
        session.process.kill()
        session.process.communicate()
        for pid in session.running():
            os.kill(pid, signal.SIGKILL)


def run(*words: str, folder: Path) -> tuple[int, str, str]:
    """Run chrootvm to its end; return the exit status, the output and the errors."""
    with chrootvm(*words, folder=folder) as session:
        ended = session.finish()
        assert session.left() == []
        return ended


def environment_of(pid: int) -> list[bytes]:
    """Return the environment with which a process was started; nothing for one that is gone."""
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:
            return file.read().split(b"\0")
    except OSError:
        return []


def program_of(pid: int) -> str:
    """Return the command of a process."""
    try:
        with open(f"/proc/{pid}/cmdline", encoding="utf-8", errors="replace") as file:
            return file.read().replace("\0", " ")
    except OSError:
        return ""
