"""Find the kernel of a root directory or a build tree, its release and its module directory.

In the root directory only names and symbolic links are read to find it. A link is resolved as in
the guest, with `root` as the root directory, so that it never leads out of it.
"""

import os
import re

from initrd.errors import reason
from initrd.host.image import buildtree
from initrd.host.image.kmod import MODULE_DIRECTORIES
from initrd.host.qemu.arch import ARCHES, KERNEL_HEAD, Arch, kernel_machine
from initrd.host.system.files import OpenFile
from initrd.host.system.hosterror import HostError
from initrd.host.system.rootfile import KERNEL, find_in_root, list_directory, open_file
from initrd.record import Record

_VERSION_PART = re.compile(r"[0-9]+|[^\W0-9_]+|~")  # other digits, such as ², are letters


class Kernel(Record):
    """A kernel to boot, with absolute paths on the host."""

    release: str  # as `uname -r` prints it; empty: unknown
    image: str
    modules: str = ""  # the directory of its modules, or its build tree; empty: none
    named: bool = False  # the user has named the image: links in its path may lead anywhere
    machine: str = ""  # that the image is for, as `kernel_machine` returns it; empty: unknown


def find_kernel(root: str) -> Kernel:
    """Return the kernel of the highest version in the directory `root`.

    Images are usr/lib/modules/V/vmlinuz and boot/vmlinuz-V; of two with the same version, the
    first. Raises HostError when there is none, or when `root` is not a directory.
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
    return Kernel(release, images[release], find_module_directory(root, release))


def find_built_kernel(tree: str, arch: Arch) -> Kernel:
    """Return the kernel in a build tree, with the tree as the directory of its modules.

    Raises HostError for a directory without a kernel for this architecture.
    """
    what, make = f"cannot use {tree} as the kernel", f"make -C {tree}"
    if not buildtree.is_build_tree(tree):
        why = "it has no include/config/kernel.release, so no kernel has been built in it"
        hint = f"{make} bzImage modules; or give the directory of its make O=, or an image"
        raise HostError(what, why, hint.replace("bzImage", os.path.basename(arch.image)))
    image = os.path.join(tree, arch.image)
    for other in ARCHES:
        if not os.path.isfile(image) and os.path.isfile(os.path.join(tree, other.image)):
            why = f"it has a kernel for {other.name} and none for {arch.name}"
            raise HostError(what, why, f"--arch {other.name}")
    if not os.path.isfile(image):
        why = f"it has no {arch.image}, so the kernel has not been built"
        raise HostError(what, why, f"{make} {os.path.basename(image)} modules")
    if not buildtree.has_option(tree, "64BIT"):
        raise HostError(what, f"it is a kernel of 32 bits, and /init is a program for {arch.name}")
    return Kernel(buildtree.read_tree_release(tree), image, tree)


def find_module_directory(root: str, release: str) -> str:
    """Return the module directory of the kernel `release` in `root`; empty when there is none."""
    for folder in MODULE_DIRECTORIES:
        path = find_in_root(root, f"{folder}/{release}")
        if path and os.path.isdir(path):
            return path
    return ""


def open_kernel(kernel: Kernel) -> OpenFile:
    """Return the image of a kernel, open for reading. Raises HostError."""
    image = kernel.image
    try:
        limit = None if kernel.named else KERNEL  # a vmlinux with debug information is large
        return OpenFile(image, open_file(image, limit, follow=kernel.named))
    except FileNotFoundError as error:
        raise HostError(f"cannot use {image} as the kernel", "there is no such file") from error
    except PermissionError as error:  # in some distributions only root may read it
        hint = f"sudo chmod o+r {image}, or a copy of it: --kernel FILE"
        raise HostError(
            f"cannot read the kernel {image}", "it is not for this user", hint
        ) from error
    except HostError as error:
        raise HostError(f"cannot use {image} as the kernel", error.why) from error
    except OSError as error:
        raise HostError(f"cannot read the kernel {image}", reason(error)) from error


def identify_kernel(kernel: Kernel) -> Kernel:
    """Return the kernel with what its image says of itself: the machine; the release if unknown.

    Raises HostError when the image cannot be used.
    """
    image = open_kernel(kernel)
    try:
        machine = kernel_machine(_read_head(image))
        release = kernel.release or read_release(image)
    finally:
        os.close(image.descriptor)
    return kernel.replace(release=release, machine=machine)


def read_release(image: OpenFile) -> str:
    """Return the release of an open kernel image, from its header, else from its path.

    Only x86 images have it in the header: Documentation/arch/x86/boot.rst, `kernel_version`.
    Raises HostError when the image cannot be read.
    """
    head = _read_head(image)
    if head[0x202:0x206] == b"HdrS":
        offset = int.from_bytes(head[0x20E:0x210], "little") + 0x200
        return head[offset : offset + 256].split(b"\0")[0].split(b" ")[0].decode(errors="replace")
    folder, name = os.path.split(image.path)
    return name.removeprefix("vmlinuz-") if name != "vmlinuz" else os.path.basename(folder)


def _read_head(image: OpenFile) -> bytes:
    try:
        return os.pread(image.descriptor, KERNEL_HEAD, 0)
    except OSError as error:
        raise HostError(f"cannot read the kernel {image.path}", reason(error)) from error


def version_key(version: str) -> tuple[tuple[int, int, str], ...]:
    """Return the sort key of a version: numbers by value; `~` and `rc` before the release."""
    return (*(_part_key(part) for part in _VERSION_PART.findall(version)), (0, 0, ""))


def _part_key(part: str) -> tuple[int, int, str]:
    if part.isascii() and part.isdigit():
        return (2, int(part), "")
    return {"~": (-2, 0, ""), "rc": (-1, 0, "")}.get(part, (1, 0, part))


def _images_by_release(root: str) -> dict[str, str]:
    """Return the kernel images in `root`; one beside its modules overrides one in /boot."""
    images = {}
    for name in _list_directory(root, "boot"):
        if name.startswith("vmlinuz-"):
            images[name.removeprefix("vmlinuz-")] = find_in_root(root, f"boot/{name}")
    for folder in reversed(MODULE_DIRECTORIES):
        for release in _list_directory(root, folder):
            image = find_in_root(root, f"{folder}/{release}/vmlinuz")
            if image:
                images[release] = image
    return {release: image for release, image in images.items() if os.path.isfile(image)}


def _list_directory(root: str, folder: str) -> list[str]:
    """Return the names in a directory of `root`; none where there is no such directory."""
    path = find_in_root(root, folder)
    try:
        return list_directory(path) if path else []
    except NotADirectoryError:
        return []
    except OSError as error:
        raise HostError(f"cannot read {path}", reason(error)) from error


def _check_directory(root: str) -> None:
    try:
        os.stat(os.path.join(root, ""))
    except OSError as error:
        raise HostError(f"cannot use {root} as the root directory", reason(error)) from error
