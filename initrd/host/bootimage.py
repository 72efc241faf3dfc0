"""The initramfs image of one boot: from the cache, or made; and the command that it shall run."""

import os

from initrd.command import Command, CommandError, dump
from initrd.host import cpio
from initrd.host.cache import Image, open_image
from initrd.host.failure import HostError
from initrd.host.needs import Need
from initrd.options import COMMAND_FILE
from initrd.record import Record

PORTS = Need(("virtio_console",), "the streams of a command")
NAMELESS = "initrd.img"  # what to call an image that the cache does not keep
_DEPMOD_FILES = ("dep", "softdep", "alias", "builtin", "builtin.modinfo")


class BootImage(Record):
    """An image that is ready to be used."""

    descriptor: int
    path: str  # of the part that the cache keeps, without a command


def open_boot_image(
    init: str, modules: str, wanted: tuple[Need, ...], command: Command | None, cache: str
) -> BootImage:
    """Return the image with the program `init` and the modules that are wanted.

    `modules` is the kernel's directory of them; empty: it has none. `cache` is ours.
    """
    key = repr((init, modules, wanted))
    folder = os.path.join(cache, "images")
    image = open_image(folder, key, lambda: make_image(init, modules, wanted))
    path = os.readlink(f"/proc/self/fd/{image}")
    known = path if os.path.exists(path) else NAMELESS
    return BootImage(image if command is None else with_command(image, command), known)


def make_image(init: str, directory: str, wanted: tuple[Need, ...]) -> Image:
    """Return the image, and what it was made from."""
    from initrd.host import image, modules  # noqa: PLC0415 - the cache has most images

    chosen = modules.choose(directory, wanted) if directory else ()
    depmod = (os.path.join(directory, f"modules.{name}") for name in _DEPMOD_FILES)
    inputs = (init, *depmod, *(module.path for module in chosen))
    return Image(image.build(image.read_init(init), chosen), inputs)


def with_command(image: int, command: Command) -> int:
    """Return a descriptor of the image with a command in it. Closes `image`. Raises HostError."""
    try:
        data = dump(command)
    except CommandError as error:
        raise HostError("cannot run the command", str(error)) from error
    size, copied = os.fstat(image).st_size, 0
    whole = os.memfd_create("initrd")
    while copied < size:
        copied += os.sendfile(whole, image, copied, size - copied)
    os.close(image)
    entry = cpio.file(COMMAND_FILE.lstrip("/"), data, 0o600)
    with open(whole, "wb", closefd=False) as file:
        file.seek(size)
        file.write(cpio.gap(size) + cpio.pack([entry]))
    return whole
