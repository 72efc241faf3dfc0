"""Make initramfs images with `mkvirtinitrd`, and change them."""

import os
import subprocess
import sys
from collections.abc import Iterable

from initrd.host.image import cpio, lsinitramfs
from testbed import assets

TOP = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
_OTHER = "" if assets.architecture() == assets.HOST else f"-{assets.architecture()}"
INIT = os.path.join(TOP, "dist", f"init{_OTHER}")
MKVIRTINITRD = os.path.join(TOP, "scripts", "mkvirtinitrd")
MODULES = b"usr/lib/modules/"  # directory of the modules in an image


def make(kernel: assets.Kernel, output: str, *options: str) -> str:
    """Make an image with mkvirtinitrd; return `output`."""
    command = [sys.executable, MKVIRTINITRD, *options, INIT, kernel.modules, output]
    subprocess.run(command, check=True)
    return output


def change(
    image: str, *, without: Iterable[str] = (), extra: Iterable[cpio.Entry] = (), cut: str = ""
) -> str:
    """Change an image in place; return its path.

    The modules named in `without` are removed, the entries `extra` are appended, and the file of
    the module `cut` is truncated to half its size.
    """
    entries = [
        entry
        for entry in lsinitramfs.read_entries(_read(image))
        if _module_name(entry) not in set(without)
    ]
    for index, entry in enumerate(entries):
        if cut and _module_name(entry) == cut:
            entries[index] = entry.replace(data=entry.data[: len(entry.data) // 2])
    with open(image, "wb") as file:
        file.write(cpio.pack([*entries, *extra]))
    return image


def module(name: str, data: bytes) -> cpio.Entry:
    """Return the cpio entry of a module file."""
    return cpio.file(MODULES + name.encode(), data)


def module_file(kernel: assets.Kernel, path: str) -> bytes:
    """Return the bytes of a module's file as the distribution ships it, compressed or not."""
    return _read(os.path.join(kernel.modules, "kernel", path))


def _module_name(entry: cpio.Entry) -> str:
    """Return the name of the module in an entry: `virtio_pci` for `003-virtio_pci.ko`.

    The result is empty for an entry that is no module.
    """
    name = entry.path.removeprefix(b"./")
    if not name.startswith(MODULES):
        return ""
    return name.removeprefix(MODULES).decode().partition("-")[2].partition(".")[0]


def _read(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read()
