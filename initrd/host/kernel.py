"""Which kernel a root directory boots with, and where its modules are.

Reads names and symbolic links only; a link inside the root leads where it would lead in the guest,
never out of the root.
"""

import os
import re
import stat

from initrd.host.failure import HostError, reason
from initrd.record import Record

MODULES = ("usr/lib/modules", "lib/modules")  # the second: roots whose /lib is not a link
_MOST_LINKS = 40  # as the kernel itself: path_resolution(7)
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
        path = resolve_inside(root, f"{folder}/{release}")
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


def resolve_inside(root: str, path: str) -> str:
    """Return where `path` leads to when `root` is `/`; empty when that does not exist.

    The result is a path on the host without symbolic links below `root`. Raises HostError when
    the links form a circle or a directory cannot be searched.
    """
    waiting = path.split("/")[::-1]
    found: list[str] = []
    links = 0
    while waiting:
        name = waiting.pop()
        if name in ("", "."):
            continue
        if name == "..":
            del found[-1:]
            continue
        target = _link_target(root, [*found, name])
        if target is None:
            return ""
        if not target:
            found.append(name)
            continue
        links += 1
        if links > _MOST_LINKS:
            raise HostError(f"cannot follow {path} in {root}", "too many symbolic links")
        found = [] if target.startswith("/") else found
        waiting += target.split("/")[::-1]
    return os.path.join(root, *found)


def _link_target(root: str, parts: list[str]) -> str | None:
    """Return where a link leads; empty for what is not a link, None for what does not exist."""
    path = os.path.join(root, *parts)
    try:
        return os.readlink(path) if stat.S_ISLNK(os.lstat(path).st_mode) else ""
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise HostError(f"cannot look at {path}", reason(error)) from error


def _images_by_release(root: str) -> dict[str, str]:
    """Return the kernel images in `root`; the one beside its modules wins over /boot's."""
    found = {}
    for name in _names(root, "boot"):
        if name.startswith("vmlinuz-"):
            found[name.removeprefix("vmlinuz-")] = resolve_inside(root, f"boot/{name}")
    for folder in reversed(MODULES):
        for release in _names(root, folder):
            image = resolve_inside(root, f"{folder}/{release}/vmlinuz")
            if image:
                found[release] = image
    return {release: image for release, image in found.items() if os.path.isfile(image)}


def _names(root: str, folder: str) -> list[str]:
    path = resolve_inside(root, folder)
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
