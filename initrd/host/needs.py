"""Which modules an image needs, by what it shall boot. Pure: tables and their reading.

A file system is asked for by the alias that the kernel itself uses, `fs-TYPE`, because its module
may have another name (iso9660 is in isofs), and by its name, because kernels before 5.2 do not list
the aliases of what is built in.
"""

from initrd.cmdline import parse
from initrd.options import BootOptions
from initrd.quoting import split
from initrd.record import Record

PROBED = ("ext4", "squashfs", "erofs")  # what a block device without `rootfstype=` may hold
CONTROLLERS = ("virtio_scsi", "ahci")  # which of them a disk hangs on, its name does not tell
DRIVERS = {
    "vd": (("virtio_blk",),),
    "sd": (CONTROLLERS, ("sd_mod",)),
    "sr": (CONTROLLERS, ("sr_mod",)),
    "nvme": (("nvme",),),
}


class Need(Record):
    """Modules, by name or alias, for one purpose. The image gets all of them that exist."""

    modules: tuple[str, ...]
    purpose: str  # completes "needed for"
    optional: bool = False  # when the kernel has none of them, so be it
    spelt_by_user: bool = False  # and so perhaps misspelt


VIRTIOFS = Need(("virtiofs",), "shared directories")
TRANSPORT = Need(("virtio_pci", "virtio_mmio", "virtio_ccw"), "any virtio device to appear")
OVERLAY = Need(("overlay",), "a writable overlay")
FUSE = Need(("fuse",), "a union in user space")
DISK = Need(("virtio_blk",), "block devices")
NETWORK = Need(("virtio_net",), "the network")
PACKET = Need(("af_packet",), "DHCP", optional=True)
NAMES = Need(("overlay",), "a read-only root without /etc/resolv.conf", optional=True)
CONSOLE = Need(("virtio_console",), "console=hvc0")

ALWAYS = (TRANSPORT, VIRTIOFS)


def module(name: str) -> Need:
    """Return the need for a module that the user asked for."""
    return Need((name,), f"--module {name}", spelt_by_user=True)


def filesystem(*types: str) -> Need:
    """Return the need for any of the file systems `types`."""
    words = [word for fstype in types for word in (f"fs-{fstype}", fstype)]
    return Need(tuple(words), f"a disk with {' or '.join(types)}")


# What the options --overlay, --block and --net of mkvirtinitrd stand for.
PURPOSES = {
    "overlay": (OVERLAY,),
    "block": (DISK, filesystem(*PROBED)),
    "net": (NETWORK, PACKET, NAMES),
}


def for_cmdline(text: str) -> tuple[Need, ...]:
    """Return what a boot with the kernel command line `text` needs.

    Raises CmdlineError for an option of ours that cannot be understood.
    """
    consoles = [word.value or "" for word in split(text) if word.key == "console"]
    needs = for_options(parse(text))
    return (*needs, CONSOLE) if any(name.startswith("hvc") for name in consoles) else needs


def for_options(options: BootOptions) -> tuple[Need, ...]:
    """Return what a boot with `options` needs.

    virtiofs is always among it, but a kernel without it will do when nothing is shared.
    """
    shares = options.root.kind == "virtiofs" or bool(options.shares)
    return (
        TRANSPORT,
        VIRTIOFS.replace(optional=not shares),
        *_for_root(options),
        *_for_overlay(options),
        *([OVERLAY.replace(optional=True)] if options.bundles else []),
        *(PURPOSES["net"] if any(ip not in ("off", "none") for ip in options.ip) else []),
    )


def _for_root(options: BootOptions) -> tuple[Need, ...]:
    root = options.root
    if root.kind != "block":
        return ()
    types = tuple(filter(None, root.fstype.split(","))) or PROBED
    return (*_drivers(root.source), filesystem(*types))


def _for_overlay(options: BootOptions) -> tuple[Need, ...]:
    if not options.overlay:
        return ()
    union = OVERLAY if options.union in ("", "overlay") else FUSE
    if options.overlay == "ram":
        return (union,)
    return (union, *_drivers(options.overlay), filesystem("ext4"))


def _drivers(device: str) -> tuple[Need, ...]:
    """Return what makes `device` appear: virtio's disks when its name does not tell."""
    name = device.removeprefix("/dev/")
    for prefix, drivers in DRIVERS.items():
        if name.startswith(prefix):
            return tuple(Need(any_of, f"the device {device}") for any_of in drivers)
    return (DISK,)
