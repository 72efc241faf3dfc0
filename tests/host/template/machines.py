"""Launches of machines whose QEMU is `fake_qemu.py`; they have no shares, and so no virtiofsd."""

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from initrd.command import Command
from initrd.host.machine.launch import Launch, Warm
from initrd.host.qemu.arch import find_arch
from initrd.host.qemu.argv import Hardware, Setup
from initrd.host.system.files import OpenFile
from initrd.host.virtiofsd.program import Virtiofsd
from tests.host.conftest import write_program

REPOSITORY = Path(__file__).parents[3]
MEMORY = 1 << 20  # bytes
RELEASE = "6.1.0-9-amd64"


@contextmanager
def fake_launch(folder: Path, behaviour: str = "") -> Iterator[Launch]:
    """Yield a launch of the fake QEMU, with files of its own in `folder`."""
    (folder / "behaviour").write_text(behaviour)
    words = f"{sys.executable} {REPOSITORY}/tests/host/template/fake_qemu.py {folder}"
    qemu = write_program(folder / "qemu", f'exec {words} "$@"')
    (folder / "vmlinuz").touch()
    image = folder / "image.img"
    image.write_bytes(b"image")
    descriptor = os.open(image, os.O_RDONLY)
    hardware = Hardware(find_arch("x86_64"), "tcg", memory=MEMORY, cpus=1)
    setup = Setup(
        qemu,
        hardware,
        OpenFile(str(folder / "vmlinuz")),
        OpenFile(str(image), descriptor),
        cmdline="console=ttyS0 init=/bin/sh",
        network=True,
        mac="52:54:00:01:02:03",
        generation="00000000-0000-0000-0000-000000000001",
    )
    command = Command((b"true",))
    warm = Warm("console=ttyS0 quiet", RELEASE, str(folder / "templates"), 1 << 30)
    virtiofsd = Virtiofsd("/nowhere/virtiofsd", "c")
    try:
        yield Launch(setup, virtiofsd, setup.kernel.path, command, warm=warm)
    finally:
        os.close(descriptor)


def behave(folder: Path, behaviour: str) -> None:
    """Change how the fake QEMUs behave that are started from now on."""
    (folder / "behaviour").write_text(behaviour)


def words_of_qemu(folder: Path) -> list[list[str]]:
    """Return the command lines of the fake QEMUs that were started."""
    path = folder / "words"
    return list(map(json.loads, path.read_text().splitlines())) if path.exists() else []


def requests_of_qemu(folder: Path) -> list[tuple[str, dict[str, object]]]:
    """Return the QMP commands of all fake QEMUs."""
    lines = (folder / "requests").read_text().splitlines(keepends=True)
    requests = map(json.loads, (line for line in lines if line.endswith("\n")))
    return [(request["execute"], request["arguments"]) for request in requests]
