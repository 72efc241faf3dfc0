"""Initramfs images of the tests: what `mkvirtinitrd` makes, and what one finds in the wild."""

import os
import subprocess
import sys
from collections.abc import Iterable

from initrd.host.image import cpio, lsinitramfs
from testbed import assets

TOP = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
INIT = os.path.join(TOP, "dist", "init")
MKVIRTINITRD = os.path.join(TOP, "scripts", "mkvirtinitrd")
MODULES = b"usr/lib/modules/"


def make(kernel: assets.Kernel, output: str, *options: str) -> str:
    """Make an image with mkvirtinitrd; return its path."""
    command = [sys.executable, MKVIRTINITRD, *options, INIT, kernel.modules, output]
    subprocess.run(command, check=True)
    return output


def change(
    image: str, *, without: Iterable[str] = (), extra: Iterable[cpio.Entry] = (), cut: str = ""
) -> str:
    """Change an image: leave modules out, add entries, cut a module's file in half."""
    entries = [
        entry
        for entry in lsinitramfs.read_entries(_read(image))
        if _module(entry) not in set(without)
    ]
    for at, entry in enumerate(entries):
        if cut and _module(entry) == cut:
            entries[at] = entry.replace(data=entry.data[: len(entry.data) // 2])
    with open(image, "wb") as file:
        file.write(cpio.pack([*entries, *extra]))
    return image


def module(name: str, data: bytes) -> cpio.Entry:
    """Return a module file of an image."""
    return cpio.file(MODULES + name.encode(), data)


def module_file(kernel: assets.Kernel, path: str) -> bytes:
    """Return a module's file as the distribution has it, compressed or not."""
    return _read(os.path.join(kernel.modules, "kernel", path))


def _module(entry: cpio.Entry) -> str:
    """Return the name of the module in an entry: `003-virtio_pci.ko` is `virtio_pci`."""
    name = entry.path.removeprefix(b"./")
    if not name.startswith(MODULES):
        return ""
    return name.removeprefix(MODULES).decode().partition("-")[2].partition(".")[0]


def _read(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read()
