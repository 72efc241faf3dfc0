"""Compare /init with other initramfs images: a busybox script, and Debian's initramfs-tools.

    python3 -m bench.alternatives [--short]

Each image boots the same kernel, with the same parameters and devices, into the same root.
Instructions are counted from the kernel's entry point to the target, so that the size of the image
is part of the cost. Debian's image mounts the root but no further share. It is made with its tools'
default options, in a temporary root directory.
"""

import argparse
from pathlib import Path

from bench import boots
from bench.boots import CountedBoot, Marks
from bench.figure import MEGA, Figure
from initrd.host.image import cpio, modules
from initrd.host.image.build import MODULES_PATH
from initrd.host.image.modulefile import read_module
from testbed import assets

SCRIPT = Path(__file__).parent / "busybox_init.sh"
APPLETS = ("insmod", "ln", "mkdir", "mknod", "mount", "sh", "switch_root")
DIRECTORIES = ("dev", "proc", "run", "sys", "sysroot", "tmp")
# Debian's installer installs busybox and zstd together with initramfs-tools.
DEBIAN_TOOLS = ("initramfs-tools", "busybox", "zstd")
BUSYBOX_BUDGET = 1.05  # a difference that is too small to be noticed by a clock
DEBIAN_BUDGET = 0.6
SHARE = "share0"
TARGET = "cryptomgr.notests init=/target"  # chrootvm passes cryptomgr.notests, too
INIT_CMDLINE = f"rootfs=root mount={SHARE} {TARGET}"  # of /init and busybox_init.sh
DEBIAN_CMDLINE = f"root=root rootfstype=virtiofs ro {TARGET}"


def figures(*, short: bool = False) -> list[Figure]:
    """Measure; when `short`, without Debian's image, whose tools have to be downloaded."""
    kernel = assets.kernel("bookworm")
    with boots.small_root() as root:

        def measure(image: bytes, cmdline: str = INIT_CMDLINE) -> Marks:
            return boots.measure(CountedBoot(kernel.image, image, cmdline, root, ("root", SHARE)))

        init = measure(boots.image(boots.INIT, kernel))
        found = [Figure("kernel entry to the target by /init", init.target / MEGA, "M")]
        busybox = measure(busybox_image(kernel))
        found += comparison("a busybox script", init, busybox, BUSYBOX_BUDGET)
        if not short:
            debian = measure(debian_image(kernel), DEBIAN_CMDLINE)
            found += comparison("Debian 12's initramfs", init, debian, DEBIAN_BUDGET)
    return found


def comparison(name: str, init: Marks, other: Marks, budget: float) -> list[Figure]:
    """Return the figures that compare the boot by /init with that by another image."""
    return [
        Figure(f"kernel entry to the target by {name}", other.target / MEGA, "M"),
        Figure(f"/init against {name}", init.target / other.target, "", budget),
        Figure('the same from "Run /init" to execve', init.to_execve / other.to_execve),
    ]


def busybox_image(kernel: assets.Kernel) -> bytes:
    """Return an image of busybox, busybox_init.sh, and the modules that /init loads."""
    entries = [
        cpio.file("init", SCRIPT.read_bytes(), 0o755),
        cpio.file("bin/busybox", Path(assets.busybox()).read_bytes(), 0o755),
        *(cpio.symlink(f"bin/{applet}", "busybox") for applet in APPLETS),
        *(cpio.directory(name) for name in DIRECTORIES),
    ]
    for number, module in enumerate(modules.choose_modules(kernel.modules, modules.ALWAYS)):
        name = f"{MODULES_PATH}/{number:03}-{module.name}.ko"
        entries.append(cpio.file(name, read_module(module.path)))
    return cpio.pack(entries)


def debian_image(kernel: assets.Kernel) -> bytes:
    """Return the image that mkinitramfs makes for a kernel, with virtiofs added to its modules."""
    version = kernel.version
    config = Path(kernel.image).with_name(f"config-{version}")
    hooks = (
        'mkdir -p "$1/lib/modules" "$1/boot"',
        f"copy-in '{kernel.modules}' /lib/modules",
        f"copy-in '{config}' /boot",
        'echo virtiofs >>"$1/etc/initramfs-tools/modules"',
        f'chroot "$1" mkinitramfs -o /image {version}',
    )

    def make(directory: str) -> None:
        options = [f"--customize-hook={hook}" for hook in hooks]
        options.append(f"--customize-hook=download /image '{directory}/image'")
        packages = ("--variant=essential", f"--include={','.join(DEBIAN_TOOLS)}")
        assets.mmdebstrap("bookworm", "--format=null", *packages, *options, "-")

    return Path(assets.make_once("mkinitramfs", make, version, *DEBIAN_TOOLS), "image").read_bytes()


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--short", action="store_true", help="only what needs no download")
    for figure in figures(short=parser.parse_args().short):
        print(figure.row(), flush=True)


if __name__ == "__main__":
    main()
