"""Make the initramfs image: `/init`, the modules it loads, and nothing else.

    modules = choose("/lib/modules/6.1.0-9-amd64", [*needs.ALWAYS, needs.module("overlay")])
    save(build(read_init("dist/init"), modules, "none"), "initrd.img")

The same inputs give the same bytes. Nothing needs root, and no program is started.
"""

import os
import stat
from collections.abc import Iterable

from initrd.command import Command, CommandError, dump
from initrd.errors import HostError, reason
from initrd.host.image import cpio
from initrd.host.image.modules import Module, Requirement
from initrd.host.system.files import CacheEntry, OpenFile, name_open_file, open_cached
from initrd.options import COMMAND_FILE

INIT = "init"
MODULES = "usr/lib/modules"
_ELF = b"\x7fELF"
_COMPRESSED = (".gz", ".xz", ".zst")
COMMAND_PORTS = Requirement(("virtio_console",), "the streams of a command")
NAMELESS = "initrd.img"  # what to call an image that the cache does not keep
_DEPMOD_FILES = ("dep", "softdep", "alias", "builtin", "builtin.modinfo")


def build_image(init: bytes, modules: Iterable[Module], compression: str = "none") -> bytes:
    """Return the image: `init` as the first program, and `modules` numbered in their order.

    `compression` is one of compress.METHODS. Raises HostError for a module that cannot be read,
    and when compressing takes a library that is not installed.
    """
    contents = [(module.name, read_module(module.path)) for module in modules]
    digits = max(3, len(str(len(contents))))  # so that the order of names is the order of numbers
    entries = [cpio.file(INIT, init, 0o755)]
    for number, (name, content) in enumerate(contents):
        entries.append(cpio.file(f"{MODULES}/{number:0{digits}}-{name}.ko", content))
    archive = cpio.pack(entries)
    if compression == "none":
        return archive
    from initrd.host.image import compress  # noqa: PLC0415 - seldom needed

    return compress.compress(archive, compression)


def read_init(path: str) -> bytes:
    """Return the program at `path`. Raises HostError unless it is a regular ELF file."""
    what = f"cannot use {path} as the image's /init"
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise HostError(what, "it is no regular file")
        with open(path, "rb") as file:
            content = file.read()
    except OSError as error:
        raise HostError(what, reason(error)) from error
    if not content.startswith(_ELF):
        raise HostError(what, "it is no ELF program", "the file dist/init that `make build` makes")
    return content


def read_module(path: str) -> bytes:
    """Return the module in the file `path`, decompressed. Raises HostError."""
    try:
        with open(path, "rb") as file:
            content = file.read()
    except OSError as error:
        raise HostError(f"cannot read the module {path}", reason(error)) from error
    if path.endswith(_COMPRESSED):
        content = _decompress(path, content)
    if not content.startswith(_ELF):
        raise HostError(f"cannot use the module {path}", "it is no ELF file")
    return content


def _decompress(path: str, content: bytes) -> bytes:
    from initrd.host.image import compress  # noqa: PLC0415 - not all kernels' modules are compressed

    try:
        module, _ = compress.decompress(content)
    except compress.CompressError as error:
        raise HostError(f"cannot decompress the module {path}", str(error)) from error
    return module


def open_boot_image(
    init: str, modules: str, wanted: tuple[Requirement, ...], command: Command | None, cache: str
) -> OpenFile:
    """Return the image with the program `init` and the modules that are wanted.

    `modules` is the kernel's directory of them; empty: it has none. `cache` is ours.
    """
    key = repr((init, modules, wanted))
    folder = os.path.join(cache, "images")
    image = open_cached(folder, key, lambda: make_boot_image(init, modules, wanted))
    file = name_open_file(image, NAMELESS)
    if command is None:
        return file
    return file.replace(descriptor=with_command(image, command))


def make_boot_image(init: str, directory: str, wanted: tuple[Requirement, ...]) -> CacheEntry:
    """Return the image, and what it was made from."""
    from initrd.host.image import modules  # noqa: PLC0415 - the cache has most images

    chosen = modules.choose_modules(directory, wanted) if directory else ()
    depmod = (os.path.join(directory, f"modules.{name}") for name in _DEPMOD_FILES)
    inputs = (init, *depmod, *(module.path for module in chosen))
    return CacheEntry(build_image(read_init(init), chosen), inputs)


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
