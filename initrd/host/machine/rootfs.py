"""Which kernel a root directory boots with, and where its modules are.

Reads names and symbolic links only; a link inside the root leads where it would lead in the guest,
never out of the root.
"""

import os
import re

from initrd.errors import HostError, reason
from initrd.host.image.kmod import MODULES
from initrd.host.system.files import resolve_in_root
from initrd.record import Record

_SETUP_SIZE = 1 << 16  # bytes; of an x86 image, what is executed in real mode
_TOKEN = re.compile(r"\d+|[^\W\d_]+|~")


class Kernel(Record):
    """A kernel to boot: absolute paths on the host."""

    release: str  # as uname -r; empty when nothing tells
    image: str
    modules: str = ""  # empty: there is no such directory


def find_kernel(root: str) -> Kernel:
    """Return the kernel of the highest version in the directory `root`.

    Looked for at usr/lib/modules/V/vmlinuz, then boot/vmlinuz-V. Raises HostError when there is
    none, or when `root` is not a directory.
    """
    _check_directory(root)
    images = _images_by_release(root)
    if not images:
        raise HostError(
            f"no kernel in {root}",
            "neither usr/lib/modules/VERSION/vmlinuz nor boot/vmlinuz-VERSION is there",
            "install a kernel package in it, or give --kernel FILE (and --modules DIR)",
        )
    release = max(images, key=version_key)
    return Kernel(release, images[release], module_directory(root, release))


def module_directory(root: str, release: str) -> str:
    """Return the directory of the modules for `release` in `root`; empty when there is none."""
    for folder in MODULES:
        path = resolve_in_root(root, f"{folder}/{release}")
        if path and os.path.isdir(path):
            return path
    return ""


def release_of(image: str) -> str:
    """Return the release of a kernel image, by what it says itself, else by its name.

    Only x86 images say it: Documentation/arch/x86/boot.rst, `kernel_version`.
    """
    try:
        with open(image, "rb") as file:
            head = file.read(_SETUP_SIZE)
    except OSError as error:
        raise HostError(f"cannot read the kernel {image}", reason(error)) from error
    if head[0x202:0x206] == b"HdrS":
        at = int.from_bytes(head[0x20E:0x210], "little") + 0x200
        return head[at : at + 256].split(b"\0")[0].split(b" ")[0].decode(errors="replace")
    folder, name = os.path.split(image)
    return name.removeprefix("vmlinuz-") if name != "vmlinuz" else os.path.basename(folder)


def check_readable(image: str) -> None:
    """Raise HostError for a kernel that this user may not read: some distributions have such."""
    if not os.access(image, os.R_OK):
        raise HostError(
            f"cannot read the kernel {image}",
            "it is not for this user",
            f"sudo chmod o+r {image}, or a copy of it: --kernel FILE",
        )


def version_key(version: str) -> tuple[tuple[int, int, str], ...]:
    """Return what versions sort by: numbers as numbers, `~` and release candidates first."""
    return (*(_token_key(token) for token in _TOKEN.findall(version)), (0, 0, ""))


def _token_key(token: str) -> tuple[int, int, str]:
    if token.isdigit():
        return (2, int(token), "")
    return {"~": (-2, 0, ""), "rc": (-1, 0, "")}.get(token, (1, 0, token))


def _images_by_release(root: str) -> dict[str, str]:
    """Return the kernel images in `root`; the one beside its modules wins over /boot's."""
    found = {}
    for name in _names(root, "boot"):
        if name.startswith("vmlinuz-"):
            found[name.removeprefix("vmlinuz-")] = resolve_in_root(root, f"boot/{name}")
    for folder in reversed(MODULES):
        for release in _names(root, folder):
            image = resolve_in_root(root, f"{folder}/{release}/vmlinuz")
            if image:
                found[release] = image
    return {release: image for release, image in found.items() if os.path.isfile(image)}


def _names(root: str, folder: str) -> list[str]:
    path = resolve_in_root(root, folder)
    try:
        return os.listdir(path) if path else []
    except NotADirectoryError:
        return []
    except OSError as error:
        raise HostError(f"cannot read {path}", reason(error)) from error


def _check_directory(root: str) -> None:
    try:
        os.stat(os.path.join(root, ""))
    except OSError as error:
        raise HostError(f"cannot use {root} as the root directory", reason(error)) from error
