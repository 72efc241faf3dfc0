"""Read and write files of a private directory, also in several processes."""

import os
import subprocess
import sys
from pathlib import Path

from initrd.host.system.private import PrivateFolder

REPOSITORY = os.path.abspath(f"{__file__}/../../../..")


def write(folder: PrivateFolder, name: str, content: bytes) -> None:
    descriptor, temporary = folder.create_temporary()
    with open(descriptor, "wb") as file:
        file.write(content)
    folder.commit(temporary, name, durable=False)


def read(folder: PrivateFolder, name: str) -> bytes:
    with open(folder.open_file(name), "rb") as file:
        return file.read()


def make(path: Path, mode: int = 0o700) -> Path:
    path.mkdir()
    path.chmod(mode)
    return path


def run_processes(script: str, *words: str) -> None:
    command = [sys.executable, "-c", "import os, sys\n" + script, *words]
    processes = [subprocess.Popen(command, cwd=REPOSITORY) for _ in range(4)]
    assert [process.wait() for process in processes] == [0] * 4
