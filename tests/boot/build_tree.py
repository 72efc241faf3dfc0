"""A directory that looks like the build tree of Debian 12's kernel."""

import os
import shutil
from pathlib import Path

from testbed import assets


def build_tree() -> str:
    """Return the path of the directory, which is made at the first use."""
    kernel = assets.kernel("bookworm")
    source = os.path.relpath(kernel.image, assets.cache())
    return assets.make_once("build-tree", lambda top: _make(kernel, Path(top)), source)


def _make(kernel: assets.Kernel, top: Path) -> None:
    """Arrange the files of a kernel's package as they are before `make modules_install`."""
    modules = Path(kernel.modules)
    shutil.copytree(modules / "kernel", top, copy_function=os.link, dirs_exist_ok=True)
    for name in ("modules.builtin", "modules.builtin.modinfo"):
        shutil.copy(modules / name, top / name)
    lines = (modules / "modules.order").read_text().splitlines(keepends=True)
    (top / "modules.order").write_text("".join(line.removeprefix("kernel/") for line in lines))
    for folder in ("arch/x86/boot", "include/config"):
        (top / folder).mkdir(parents=True, exist_ok=True)
    os.link(kernel.image, top / "arch/x86/boot/bzImage")
    (top / "include/config/kernel.release").write_text(f"{kernel.version}\n")
    (top / "include/config/auto.conf").write_text("CONFIG_64BIT=y\nCONFIG_MODULES=y\n")
