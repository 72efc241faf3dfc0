"""Make module directories for tests, as a kernel's package and depmod make them."""

import os
import struct

from initrd.host.image import compress

BY_SUFFIX = {".gz": "gzip", ".xz": "xz", ".zst": "zstd"}
# The modules that every image requires, without dependencies.
REQUIRED = {"virtiofs.ko": (), "virtio_pci.ko": ()}


def write_tree(
    folder: os.PathLike[str],
    files: dict[str, tuple[str, ...]],
    *,
    builtin: tuple[str, ...] = (),
    **others: str,
) -> str:
    """Write a module directory; return its path.

    `files` are the modules' files, each with its dependencies for modules.dep; `others` are the
    contents of further files: `softdep`, `alias`, `builtin_modinfo`.
    """
    top = os.fspath(folder)
    for file in files:
        write(os.path.join(top, file), compressed(file, content(file)))
    lines = [f"{file}: {' '.join(deps)}".rstrip() + "\n" for file, deps in files.items()]
    write(os.path.join(top, "modules.dep"), "".join(lines).encode())
    write(os.path.join(top, "modules.builtin"), "".join(f"{b}\n" for b in builtin).encode())
    for name, text in others.items():
        write(os.path.join(top, f"modules.{name.replace('_', '.')}"), text.encode())
    return top


def write_build_tree(
    folder: os.PathLike[str],
    modules: dict[str, tuple[str, ...]],
    *,
    release: str = "6.1",
    suffix: str = "ko",
    builtin: tuple[str, ...] = (),
    image: str = "arch/x86/boot/bzImage",
) -> str:
    """Write the build tree of a kernel; return its path.

    `modules` are the paths of the modules without a suffix, each with its entries of .modinfo;
    `suffix` is that of the paths in modules.order.
    """
    top = os.fspath(folder)
    for path, entries in modules.items():
        write(os.path.join(top, f"{path}.ko"), elf_module(*entries))
    texts = {
        "modules.order": "".join(f"{path}.{suffix}\n" for path in modules),
        "modules.builtin": "".join(f"kernel/{path}\n" for path in builtin),
        "modules.builtin.modinfo": "",
        "include/config/kernel.release": f"{release}\n",
        "include/config/auto.conf": "#\nCONFIG_64BIT=y\nCONFIG_MODULES=y\n",
        image: "",
    }
    for name, text in texts.items():
        write(os.path.join(top, name), text.encode())
    return top


def elf_module(*entries: str, order: str = "<") -> bytes:
    """Return an ELF file whose section .modinfo has these entries."""
    modinfo = b"".join(entry.encode() + b"\0" for entry in entries)
    names = b"\0.shstrtab\0.modinfo\0"
    begin = 64 + len(modinfo) + len(names)
    header = b"\x7fELF\x02" + (b"\x01" if order == "<" else b"\x02") + bytes(34)
    header += struct.pack(f"{order}Q10xHHH", begin, 64, 3, 1)
    sections = [(0, 0, 0), (1, 64 + len(modinfo), len(names)), (11, 64, len(modinfo))]
    table = [struct.pack(f"{order}I20xQQ24x", *section) for section in sections]
    return b"".join((header, modinfo, names, *table))


def content(file: str) -> bytes:
    return b"\x7fELF module " + os.fsencode(file.partition(".ko")[0]) * 100


def compressed(file: str, data: bytes) -> bytes:
    return compress.compress(data, BY_SUFFIX.get(os.path.splitext(file)[1], "none"))


def write(path: str, data: bytes) -> None:
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "wb") as file:
        file.write(data)
