"""Make the initramfs image: `/init`, the modules it loads, and nothing else.

    modules = choose("/lib/modules/6.1.0-9-amd64", [*needs.ALWAYS, needs.module("overlay")])
    save(build(read_init("dist/init"), modules, "none"), "initrd.img")

The same inputs give the same bytes. Nothing needs root, and no program is started.
"""

import os
import stat
from collections.abc import Iterable

from initrd.host import cpio
from initrd.host.failure import HostError, reason
from initrd.host.modules import Module

INIT = "init"
MODULES = "usr/lib/modules"
_ELF = b"\x7fELF"
_COMPRESSED = (".gz", ".xz", ".zst")


def build(init: bytes, modules: Iterable[Module], compression: str = "none") -> bytes:
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
    from initrd.host import compress  # noqa: PLC0415 - seldom needed

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
    from initrd.host import compress  # noqa: PLC0415 - not all kernels' modules are compressed

    try:
        module, _ = compress.decompress(content)
    except compress.CompressError as error:
        raise HostError(f"cannot decompress the module {path}", str(error)) from error
    return module
