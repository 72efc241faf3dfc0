"""Which modules an image needs, by what it shall boot. Pure: tables and their reading.

A file system is asked for by the alias that the kernel itself uses, `fs-TYPE`, because its module
may have another name (iso9660 is in isofs), and by its name, because kernels before 5.2 do not list
the aliases of what is built in.
"""

from collections.abc import Iterable
from graphlib import CycleError, TopologicalSorter

from initrd import options as boot_options
from initrd.cmdline import parse, split
from initrd.errors import HostError
from initrd.host.image.kmod import ModuleTree
from initrd.options import OVERLAY_IN_MEMORY, BootOptions, Root
from initrd.record import Record

PROBED = ("ext4", "squashfs", "erofs")  # what a block device without `rootfstype=` may hold
CONTROLLERS = ("virtio_scsi", "ahci")  # which of them a disk hangs on, its name does not tell
DRIVERS = {
    "vd": (("virtio_blk",),),
    "sd": (CONTROLLERS, ("sd_mod",)),
    "sr": (CONTROLLERS, ("sr_mod",)),
    "nvme": (("nvme",),),
}
Graph = dict[str, list[str]]  # a module, and what has to be loaded before it


class Requirement(Record):
    """Modules, by name or alias, for one purpose. The image gets all of them that exist."""

    modules: tuple[str, ...]
    purpose: str  # completes "needed for"
    optional: bool = False  # when the kernel has none of them, so be it
    spelt_by_user: bool = False  # and so perhaps misspelt


VIRTIOFS = Requirement(("virtiofs",), "shared directories")

TRANSPORT = Requirement(("virtio_pci", "virtio_mmio", "virtio_ccw"), "any virtio device to appear")

OVERLAY = Requirement(("overlay",), "a writable overlay")

FUSE = Requirement(("fuse",), "a union in user space")

DISK = Requirement(("virtio_blk",), "block devices")

NETWORK = Requirement(("virtio_net",), "the network")

PACKET = Requirement(("af_packet",), "DHCP", optional=True)

NAMES = Requirement(("overlay",), "a read-only root without /etc/resolv.conf", optional=True)

CONSOLE = Requirement(("virtio_console",), "console=hvc0")

ALWAYS = (TRANSPORT, VIRTIOFS)


def module_requirement(name: str) -> Requirement:
    """Return the need for a module that the user asked for."""
    return Requirement((name,), f"--module {name}", spelt_by_user=True)


def filesystem_requirement(*types: str) -> Requirement:
    """Return the need for any of the file systems `types`."""
    words = [word for fstype in types for word in (f"fs-{fstype}", fstype)]
    return Requirement(tuple(words), f"a disk with {' or '.join(types)}")


# What the options --overlay, --block and --net of mkvirtinitrd stand for.
PURPOSES = {
    "overlay": (OVERLAY,),
    "block": (DISK, filesystem_requirement(*PROBED)),
    "net": (NETWORK, PACKET, NAMES),
}


def requirements_of_cmdline(text: str) -> tuple[Requirement, ...]:
    """Return what a boot with the kernel command line `text` needs.

    Raises CmdlineError for an option of ours that cannot be understood.
    """
    consoles = [word.value or "" for word in split(text) if word.key == "console"]
    needs = requirements_of_options(parse(text))
    return (*needs, CONSOLE) if any(name.startswith("hvc") for name in consoles) else needs


def requirements_of_options(options: BootOptions) -> tuple[Requirement, ...]:
    """Return what a boot with `options` needs.

    virtiofs is always among it, but a kernel without it will do when nothing is shared.
    """
    shares = options.root.kind.is_share or bool(options.shares)
    return (
        TRANSPORT,
        VIRTIOFS.replace(optional=not shares),
        *_ROOT_REQUIREMENTS[options.root.kind.name](options.root),
        *_for_overlay(options),
        *([OVERLAY.replace(optional=True)] if options.bundles else []),
        *(PURPOSES["net"] if any(ip not in ("off", "none") for ip in options.ip) else []),
    )


def _for_no_device(_root: Root) -> tuple[Requirement, ...]:
    return ()


def _for_block(root: Root) -> tuple[Requirement, ...]:
    types = tuple(filter(None, root.fstype.split(","))) or PROBED
    return (*_drivers(root.source), filesystem_requirement(*types))


# By RootKind.name: what the root needs beyond what every boot needs.
_ROOT_REQUIREMENTS = {
    boot_options.VIRTIOFS.name: _for_no_device,
    boot_options.BLOCK.name: _for_block,
    boot_options.TMPFS.name: _for_no_device,
}


def _for_overlay(options: BootOptions) -> tuple[Requirement, ...]:
    if not options.overlay:
        return ()
    union = OVERLAY if options.union in ("", "overlay") else FUSE
    if options.overlay == OVERLAY_IN_MEMORY:
        return (union,)
    return (union, *_drivers(options.overlay), filesystem_requirement("ext4"))


def _drivers(device: str) -> tuple[Requirement, ...]:
    """Return what makes `device` appear: virtio's disks when its name does not tell."""
    name = device.removeprefix("/dev/")
    for prefix, drivers in DRIVERS.items():
        if name.startswith(prefix):
            return tuple(Requirement(any_of, f"the device {device}") for any_of in drivers)
    return (DISK,)


class Module(Record):
    """A module that goes into an image."""

    name: str
    path: str  # its file, compressed or not


def choose_modules(directory: str, needs: Iterable[Requirement]) -> tuple[Module, ...]:
    """Return the modules in `directory` that meet `needs`, in the order to load them.

    What is built into the kernel is left out. Raises HostError for a need that cannot be met, for
    a directory that is none of modules, and for dependencies that make no sense.
    """
    tree = ModuleTree(directory)
    names = [name for need in needs for name in _meet(tree, need)]
    return tuple(Module(name, tree.file(name)) for name in load_order(tree, names))


def _meet(tree: ModuleTree, need: Requirement) -> list[str]:
    found = [tree.find(word) for word in need.modules]
    if not need.optional and not any(names is not None for names in found):
        raise HostError(
            f"no module {' or '.join(need.modules)} in {tree.directory}",
            f"neither as a file nor built in, but needed for {need.purpose}",
            _advice(tree, need),
        )
    return [name for names in found for name in names or ()]


def _advice(tree: ModuleTree, need: Requirement) -> str:
    similar = tree.similar(need.modules[0]) if need.spelt_by_user else []
    if similar:
        return f"a name that is there, such as {', '.join(similar)}"
    return (
        "another kernel, or the package with the rest of this one's modules "
        "(linux-modules-extra, kernel-modules-extra)"
    )


def load_order(tree: ModuleTree, names: Iterable[str]) -> list[str]:
    """Return `names` and all that they need, each after what it needs.

    Soft dependencies are followed too. They may form circles: one that cannot be met is given up,
    though its module is included. Raises HostError for modules that need each other.
    """
    graph: Graph = {}
    wishes: list[tuple[str, str]] = []  # the one that should be loaded first, and the other
    waiting = list(names)
    while waiting:
        name = waiting.pop(0)
        if name in graph:
            continue
        graph[name] = list(tree.needs(name))
        before, after = _soft(tree, name)
        wishes += [(other, name) for other in before] + [(name, other) for other in after]
        waiting += [*graph[name], *before, *after]
    for first, then in wishes:
        if not _reaches(graph, first, then):
            graph[then].append(first)
    return _sorted(tree, graph)


def _soft(tree: ModuleTree, name: str) -> tuple[list[str], list[str]]:
    soft = tree.soft(name)
    before = [other for word in soft.before for other in tree.find(word) or ()]
    after = [other for word in soft.after for other in tree.find(word) or ()]
    return before, after


def _reaches(graph: Graph, start: str, goal: str) -> bool:
    seen: set[str] = set()
    waiting = [start]
    while waiting:
        name = waiting.pop()
        if name == goal:
            return True
        if name not in seen:
            seen.add(name)
            waiting += graph[name]
    return False


def _sorted(tree: ModuleTree, graph: Graph) -> list[str]:
    try:
        return list(TopologicalSorter(graph).static_order())
    except CycleError as error:
        circle = " needs ".join(reversed(error.args[1]))
        raise HostError(
            f"cannot order the modules in {tree.directory}", circle, tree.advice
        ) from None
