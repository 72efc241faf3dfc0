"""Make module directories for tests, as a kernel's package and depmod make them."""

import os

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


def content(file: str) -> bytes:
    return b"\x7fELF module " + os.fsencode(file.partition(".ko")[0]) * 100


def compressed(file: str, data: bytes) -> bytes:
    return compress.compress(data, BY_SUFFIX.get(os.path.splitext(file)[1], "none"))


def write(path: str, data: bytes) -> None:
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "wb") as file:
        file.write(data)
