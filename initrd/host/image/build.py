"""Make the initramfs image: `/init`, the modules it loads, and nothing else.

    chosen = choose_modules("/lib/modules/6.1.0-9-amd64", [*ALWAYS, module_requirement("overlay")])
    save_file(build_image(read_init("dist/init"), chosen), "initrd.img")

The same inputs give the same bytes. Nothing needs root, and no program is started.

`chrootvm` calls `open_boot_image`, which takes the image from the cache where possible, and appends
a command for the guest to it.
"""

import errno
import os
from collections.abc import Iterable

from initrd.command import Command, CommandError, Commands, dump
from initrd.elf import HEADER_SIZE, elf_machine, kernel_for
from initrd.errors import reason
from initrd.host.image import cpio
from initrd.host.image.modulefile import read_module
from initrd.host.image.modules import Module, Requirement
from initrd.host.system.cached import IMAGES, Cache, CacheEntry, CacheFolder, open_cached
from initrd.host.system.files import OpenFile, name_open_file
from initrd.host.system.hosterror import HostError
from initrd.host.system.rootfile import PROGRAM, read_file
from initrd.options import COMMAND_FILE

INIT_PATH = "init"
MODULES_PATH = "usr/lib/modules"
COMMAND_PORTS = Requirement(("virtio_console",), "the streams of a command")
_ELF = b"\x7fELF"
# The files by which modules are found: of a module directory, and `order` of a build tree.
_MODULE_FILES = ("dep", "softdep", "alias", "builtin", "builtin.modinfo", "order")
_MAX_MODULES_SIZE = 512 << 20  # bytes in an image; the guest has it in memory twice
_UNCACHED_NAME = "initrd.img"  # path reported for an image that is not in the cache


def build_image(init: bytes, modules: Iterable[Module], compression: str = "none") -> bytes:
    """Return the image: `init` as the first program, and `modules` numbered in their order.

    `compression` is one of compress.METHODS. Raises HostError for a module that cannot be read,
    for one that is for another architecture than `init`, and when compressing takes a library that
    is not installed.
    """
    contents = read_modules(modules)
    _check_machines(init, contents)
    digits = max(3, len(str(len(contents))))  # so that the order of names is the order of numbers
    entries = [cpio.file(INIT_PATH, init, 0o755)]
    for number, (name, content) in enumerate(contents):
        entries.append(cpio.file(f"{MODULES_PATH}/{number:0{digits}}-{name}.ko", content))
    archive = cpio.pack(entries)
    if compression == "none":
        return archive
    from initrd.host.image import compress  # noqa: PLC0415 - seldom needed

    return compress.compress(archive, compression)


def _check_machines(init: bytes, contents: Iterable[tuple[str, bytes]]) -> None:
    """Raise HostError for a module whose kernel cannot execute `init`."""
    of_init = elf_machine(init[:HEADER_SIZE])
    for name, content in contents:
        machine = elf_machine(content[:HEADER_SIZE])
        if machine and of_init and kernel_for(of_init) != machine:
            why = f"it is for {machine}, and the program /init for {of_init}"
            hint = f"modules for {kernel_for(of_init)}, or a /init for {machine}"
            raise HostError(f"cannot put the module {name} into the image", why, hint)


def read_init(path: str) -> bytes:
    """Return the program at `path`. Raises HostError unless it is a regular ELF file."""
    failure = f"cannot use {path} as the image's /init"
    try:
        content = read_file(path, PROGRAM, follow=True)
    except HostError as error:
        raise HostError(failure, error.why) from error
    except OSError as error:
        raise HostError(failure, reason(error)) from error
    if not content.startswith(_ELF):
        hint = "the file dist/init that `make build` makes"
        raise HostError(failure, "it is no ELF program", hint)
    return content


def read_modules(modules: Iterable[Module]) -> list[tuple[str, bytes]]:
    """Return name and content of each module. Raises HostError, also for too much in total."""
    contents, total = [], 0
    for module in modules:
        content = read_module(module.path)
        # The file may be large and its content small: many names of it would take hours.
        total += max(len(content), _size_of(module.path))
        if total > _MAX_MODULES_SIZE:
            why = f"the modules have more than {_MAX_MODULES_SIZE >> 20} MiB, decompressed"
            raise HostError("cannot make the image", why, "fewer modules")
        contents.append((module.name, content))
    return contents


def _size_of(path: str) -> int:
    """Return the size of a file; 0 when it has just been removed."""
    try:
        return os.stat(path).st_size
    except OSError:
        return 0


def open_boot_image(
    init: str, modules_dir: str, requirements: tuple[Requirement, ...], cache: Cache
) -> OpenFile:
    """Return the image with the program `init` and the modules required.

    `modules_dir` is the kernel's module directory; empty: it has none. Raises HostError.
    """
    key = repr((init, modules_dir, requirements))
    folder = CacheFolder(cache, IMAGES)
    image = open_cached(folder, key, lambda: _make_cache_entry(init, modules_dir, requirements))
    return name_open_file(image, _UNCACHED_NAME)


def encode_command(command: Command | Commands) -> bytes:
    """Return the content of the command file. Raises HostError for an invalid command."""
    try:
        return dump(command)
    except CommandError as error:
        raise HostError("cannot run the command", str(error)) from error


def append_command_file(image: OpenFile, content: bytes) -> OpenFile:
    """Return a copy of an open image, in memory, with a command file in it. Raises OSError."""
    size = os.fstat(image.descriptor).st_size
    entry = cpio.file(COMMAND_FILE.lstrip("/"), content, 0o600)
    copy = os.memfd_create("initrd")
    try:
        _copy(image.descriptor, copy, size)
        with open(copy, "wb", closefd=False) as file:
            file.seek(size)
            file.write(cpio.padding(size) + cpio.pack([entry]))
    except BaseException:
        os.close(copy)
        raise
    return image.replace(descriptor=copy)


def _copy(source: int, target: int, size: int) -> None:
    copied = 0
    while copied < size:
        count = os.sendfile(target, source, copied, size - copied)
        if not count:
            raise OSError(errno.EIO, "the image in the cache is truncated")
        copied += count


def _make_cache_entry(
    init: str, modules_dir: str, requirements: tuple[Requirement, ...]
) -> CacheEntry:
    from initrd.host.image import buildtree, modules  # noqa: PLC0415 - the cache has most images

    files = (os.path.join(modules_dir, f"modules.{name}") for name in _MODULE_FILES)
    if not modules_dir:
        return CacheEntry(build_image(read_init(init), ()), (init, *files))
    tree = buildtree.open_modules(modules_dir)
    chosen = modules.choose_from(tree, requirements)
    inputs = (init, *files, *tree.folders, *(module.path for module in chosen))
    return CacheEntry(build_image(read_init(init), chosen), inputs)
