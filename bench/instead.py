"""What a user would pick instead of /init: a busybox script, or the distribution's own initramfs.

    python3 -m bench.instead [--short]

Each boots the same kernel, with the same parameters and devices, into the same root: counted from
the kernel's entry to the target, so that the size of the image counts, too. The distribution's
mounts the root and knows nothing of shares; its image is made, with its tools' own defaults, in a
root directory that nothing is left of.
"""

import argparse
from pathlib import Path

from bench import boots
from bench.boots import Counted, Marks
from bench.figure import MEGA, Figure
from initrd.host.image import cpio, modules
from initrd.host.image.build import MODULES, read_module
from testbed import assets

SCRIPT = Path(__file__).parent / "busybox.sh"
APPLETS = ("insmod", "ln", "mkdir", "mknod", "mount", "sh", "switch_root")
DIRECTORIES = ("dev", "proc", "run", "sys", "sysroot", "tmp")
# The last two are what Debian's installer adds to it.
TOOLS = ("initramfs-tools", "busybox", "zstd")
LEVEL = 1.05  # what counts as level: nobody could tell less apart by a clock
SHARE = "share0"
TARGET = "cryptomgr.notests init=/target"  # chrootvm leaves out these tests, too
OURS = f"rootfs=root mount={SHARE} {TARGET}"
THEIRS = f"root=root rootfstype=virtiofs ro {TARGET}"


def figures(*, short: bool = False) -> list[Figure]:
    """Measure; in short, without the distribution's, which has to be downloaded."""
    kernel = assets.kernel("bookworm")
    with boots.small_root() as root:

        def boot(image: bytes, cmdline: str = OURS) -> Marks:
            return boots.measure(Counted(kernel.image, image, cmdline, root, ("root", SHARE)))

        init = boot(boots.image(boots.INIT, kernel))
        found = [Figure("kernel entry to the target by /init", init.target / MEGA, "M")]
        found += against("a busybox script", init, boot(busybox_image(kernel)), LEVEL)
        if not short:
            found += against("Debian 12's initramfs", init, boot(debian_image(kernel), THEIRS), 0.6)
    return found


def against(name: str, init: Marks, other: Marks, budget: float) -> list[Figure]:
    """Compare two boots."""
    return [
        Figure(f"kernel entry to the target by {name}", other.target / MEGA, "M"),
        Figure(f"/init against {name}", init.target / other.target, "", budget),
        Figure('the same from "Run /init" to execve', init.to_execve / other.to_execve),
    ]


def busybox_image(kernel: assets.Kernel) -> bytes:
    """Return an image of busybox, the script that it runs, and the modules that /init loads."""
    entries = [
        cpio.file("init", SCRIPT.read_bytes(), 0o755),
        cpio.file("bin/busybox", Path(assets.busybox()).read_bytes(), 0o755),
        *(cpio.symlink(f"bin/{applet}", "busybox") for applet in APPLETS),
        *(cpio.directory(name) for name in DIRECTORIES),
    ]
    for number, module in enumerate(modules.choose_modules(kernel.modules, modules.ALWAYS)):
        name = f"{MODULES}/{number:03}-{module.name}.ko"
        entries.append(cpio.file(name, read_module(module.path)))
    return cpio.pack(entries)


def debian_image(kernel: assets.Kernel) -> bytes:
    """Return what initramfs-tools make for a kernel, with virtiofs among its modules."""
    version = kernel.version
    config = Path(kernel.image).with_name(f"config-{version}")
    hooks = (
        'mkdir -p "$1/lib/modules" "$1/boot"',
        f"copy-in '{kernel.modules}' /lib/modules",
        f"copy-in '{config}' /boot",
        'echo virtiofs >>"$1/etc/initramfs-tools/modules"',
        f'chroot "$1" mkinitramfs -o /image {version}',
    )

    def make(top: str) -> None:
        options = [f"--customize-hook={hook}" for hook in hooks]
        options.append(f"--customize-hook=download /image '{top}/image'")
        chosen = ("--variant=essential", f"--include={','.join(TOOLS)}")
        assets.mmdebstrap("bookworm", "--format=null", *chosen, *options, "-")

    return Path(assets.made("mkinitramfs", make, version, *TOOLS), "image").read_bytes()


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--short", action="store_true", help="only what needs no download")
    for figure in figures(short=parser.parse_args().short):
        print(figure.row(), flush=True)


if __name__ == "__main__":
    main()
