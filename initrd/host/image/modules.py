"""Choose the modules of an image and their order, from the requirements of a boot and a kernel.

Tables and pure functions derive the requirements from a kernel command line or from boot options.
`choose_modules` finds the modules that meet them in a kernel's module directory.

A file system is looked up by the alias that the kernel itself uses, `fs-TYPE`, because its module
may have another name (iso9660 is in isofs), and by its name, because kernels before 5.2 do not list
the aliases of built-in modules.
"""

from collections import deque
from collections.abc import Iterable
from graphlib import CycleError, TopologicalSorter

from initrd import options as boot_options
from initrd.cmdline import parse, split
from initrd.host.image.buildtree import open_modules
from initrd.host.image.kmod import ModuleTree
from initrd.host.system.hosterror import HostError
from initrd.options import OVERLAY_IN_MEMORY, BootOptions, Root
from initrd.record import Record

# Types of a block device without `rootfstype=`.
_PROBED = ("ext4", "squashfs", "erofs", "iso9660")
# /dev/sd* and /dev/sr* may belong to any of them: QEMU's virtio-scsi-pci, and what its machines q35
# and pc have for -cdrom.
_CONTROLLERS = ("virtio_scsi", "ahci", "ata_piix")
_DISK_DRIVERS = {  # by the beginning of the device's name; one module of each tuple is required
    "vd": (("virtio_blk",),),
    "sd": (_CONTROLLERS, ("sd_mod",)),
    "sr": (_CONTROLLERS, ("sr_mod",)),
    "nvme": (("nvme",),),
}
_MAX_EDGES = 200_000  # dependencies in an image; all modules of a distribution have some 30,000
_MAX_STEPS = 2_000_000  # of the search for circles of soft dependencies: some seconds
_MAX_CIRCLE_NAMED = 20  # modules, in a message
Graph = dict[str, list[str]]  # a module, and the modules to load before it


class Requirement(Record):
    """Modules, by name or alias, for one purpose. The image gets all of them that exist."""

    modules: tuple[str, ...]
    purpose: str  # completes "needed for"
    optional: bool = False  # no error when the kernel has none of them
    spelt_by_user: bool = False  # and so perhaps misspelt


class Module(Record):
    """A module that goes into an image."""

    name: str
    path: str  # its file, compressed or not


def module_requirement(name: str) -> Requirement:
    """Return the requirement of a module that the user has named."""
    return Requirement((name,), f"--module {name}", spelt_by_user=True)


def filesystem_requirement(*types: str) -> Requirement:
    """Return the requirement of any of the file systems `types`."""
    words = [word for fstype in types for word in (f"fs-{fstype}", fstype)]
    return Requirement(tuple(words), f"a disk with {' or '.join(types)}")


VIRTIOFS = Requirement(("virtiofs",), "shared directories")
TRANSPORT = Requirement(("virtio_pci", "virtio_mmio", "virtio_ccw"), "any virtio device to appear")
OVERLAY = Requirement(("overlay",), "a writable overlay")
FUSE = Requirement(("fuse",), "a union in user space")
VIRTIO_DISK = Requirement(("virtio_blk",), "block devices")
ANY_DISK = (  # all that QEMU's machines attach disks and CD-ROMs to, without USB
    Requirement(("virtio_blk", *_CONTROLLERS, "nvme"), "block devices"),
    Requirement(("sd_mod",), "disks of these controllers", optional=True),
    Requirement(("sr_mod",), "CD-ROMs of these controllers", optional=True),
)
NETWORK = Requirement(("virtio_net",), "the network")
PACKET_SOCKETS = Requirement(("af_packet",), "DHCP", optional=True)
RESOLV_CONF = Requirement(("overlay",), "a read-only root without /etc/resolv.conf", optional=True)
CONSOLE = Requirement(("virtio_console",), "console=hvc0")
ALWAYS = (TRANSPORT, VIRTIOFS)
PURPOSES = {  # the requirements of mkvirtinitrd's options --overlay, --block and --net
    "overlay": (OVERLAY,),
    "block": (*ANY_DISK, filesystem_requirement(*_PROBED)),
    "net": (NETWORK, PACKET_SOCKETS, RESOLV_CONF),
}


def requirements_of_cmdline(text: str) -> tuple[Requirement, ...]:
    """Return the requirements of a boot with the kernel command line `text`.

    Raises CmdlineError for an option of /init that cannot be understood.
    """
    consoles = [word.value or "" for word in split(text) if word.key == "console"]
    requirements = requirements_of_options(parse(text))
    has_virtio_console = any(name.startswith("hvc") for name in consoles)
    return (*requirements, CONSOLE) if has_virtio_console else requirements


def requirements_of_options(options: BootOptions) -> tuple[Requirement, ...]:
    """Return the requirements of a boot with `options`.

    virtiofs is always among them, but it is optional when nothing is shared.
    """
    shares = options.root.kind.is_share or bool(options.shares)
    return (
        TRANSPORT,
        VIRTIOFS.replace(optional=not shares),
        *_ROOT_REQUIREMENTS[options.root.kind.name](options.root),
        *_overlay_requirements(options),
        *([OVERLAY.replace(optional=True)] if options.bundles else []),
        *(PURPOSES["net"] if any(ip not in ("off", "none") for ip in options.ip) else []),
    )


def choose_modules(directory: str, requirements: Iterable[Requirement]) -> tuple[Module, ...]:
    """Return the modules in `directory` that meet `requirements`, in the order to load them.

    `directory` is a module directory or a build tree. Modules built into the kernel are left out.
    Raises HostError for a requirement that cannot be met, when `directory` is neither, and for
    modules that depend on each other.
    """
    return choose_from(open_modules(directory), requirements)


def choose_from(tree: ModuleTree, requirements: Iterable[Requirement]) -> tuple[Module, ...]:
    """Do what `choose_modules` does, with the modules of an open directory."""
    names = [name for requirement in requirements for name in _find_modules(tree, requirement)]
    return tuple(Module(name, tree.path(name)) for name in load_order(tree, names))


def load_order(tree: ModuleTree, names: Iterable[str]) -> list[str]:
    """Return `names` and their dependencies, each after its own dependencies.

    Soft dependencies are followed too. They may form circles: the order of one that would close a
    circle is ignored, though its module is included. Raises HostError for modules that depend on
    each other.
    """
    graph: Graph = {}
    soft_edges: list[tuple[str, str]] = []  # the module to load first, and the other one
    queue, edge_count = deque(names), 0
    while queue:
        name = queue.popleft()
        if name in graph:
            continue
        graph[name] = list(tree.dependencies(name))
        before, after = _find_soft_dependencies(tree, name)
        soft_edges += [(other, name) for other in before] + [(name, other) for other in after]
        edge_count += len(graph[name]) + len(before) + len(after)
        _check_count(tree, edge_count, _MAX_EDGES)
        queue += [*graph[name], *before, *after]
    _add_soft_edges(tree, graph, soft_edges)
    return _sort(tree, graph)


def _no_requirements(_root: Root) -> tuple[Requirement, ...]:
    return ()


def _block_requirements(root: Root) -> tuple[Requirement, ...]:
    types = tuple(filter(None, root.fstype.split(","))) or _PROBED
    return (*_disk_requirements(root.source), filesystem_requirement(*types))


# By RootKind.name: the requirements of the root beyond those of every boot.
_ROOT_REQUIREMENTS = {
    boot_options.VIRTIOFS.name: _no_requirements,
    boot_options.BLOCK.name: _block_requirements,
    boot_options.TMPFS.name: _no_requirements,
}


def _overlay_requirements(options: BootOptions) -> tuple[Requirement, ...]:
    if not options.overlay:
        return ()
    union = OVERLAY if options.union in ("", "overlay") else FUSE
    if options.overlay == OVERLAY_IN_MEMORY:
        return (union,)
    return (union, *_disk_requirements(options.overlay), filesystem_requirement("ext4"))


def _disk_requirements(device: str) -> tuple[Requirement, ...]:
    """Return the drivers of the block device `device`: those that its name tells.

    Of a label or a UUID it is any disk, and of another name a virtio disk.
    """
    if not device.startswith("/dev/") and "=" in device:
        return ANY_DISK
    name = device.removeprefix("/dev/")
    for prefix, drivers in _DISK_DRIVERS.items():
        if name.startswith(prefix):
            return tuple(Requirement(any_of, f"the device {device}") for any_of in drivers)
    return (VIRTIO_DISK,)


def _find_modules(tree: ModuleTree, requirement: Requirement) -> list[str]:
    """Return the modules that meet a requirement; none when the kernel has them built in."""
    found = [tree.find(word) for word in requirement.modules]
    # Of a transport it is likely that the kernel has it built in, where no file can tell.
    is_needed = not requirement.optional and (tree.knows_builtin or requirement != TRANSPORT)
    if is_needed and not any(names is not None for names in found):
        raise HostError(
            f"no module {' or '.join(requirement.modules)} in {tree.directory}",
            f"neither as a file nor built in, but needed for {requirement.purpose}",
            _hint(tree, requirement),
        )
    return [name for names in found for name in names or ()]


def _hint(tree: ModuleTree, requirement: Requirement) -> str:
    """Return what the user may try when a requirement cannot be met."""
    similar = tree.similar_names(requirement.modules[0]) if requirement.spelt_by_user else []
    if similar:
        return f"a name that is there, such as {', '.join(similar)}"
    return tree.hint_for_unknown


def _find_soft_dependencies(tree: ModuleTree, name: str) -> tuple[list[str], list[str]]:
    """Return the modules to load before and after `name`, without those that do not exist."""
    soft = tree.soft_dependencies(name)
    return _find_all(tree, soft.before), _find_all(tree, soft.after)


def _find_all(tree: ModuleTree, words: Iterable[str]) -> list[str]:
    """Return the modules of names or aliases. Many aliases of many modules would multiply."""
    found: list[str] = []
    for word in words:
        found += tree.find(word) or ()
        _check_count(tree, len(found), _MAX_EDGES)
    return found


def _add_soft_edges(tree: ModuleTree, graph: Graph, edges: list[tuple[str, str]]) -> None:
    """Add the soft dependencies to the graph, but not those that would close a circle."""
    step_count = 0
    for first, second in edges:
        is_circle, steps = _depends_on(graph, first, second, _MAX_STEPS - step_count)
        step_count += steps
        _check_count(tree, step_count, _MAX_STEPS)
        if not is_circle:
            graph[second].append(first)


def _check_count(tree: ModuleTree, count: int, limit: int) -> None:
    if count > limit:
        why = "there are too many dependencies and soft dependencies among them"
        raise HostError(f"cannot order the modules in {tree.directory}", why, tree.hint)


def _depends_on(graph: Graph, module: str, dependency: str, limit: int) -> tuple[bool, int]:
    """Return whether `module` is `dependency`, or has to be loaded after it, and the steps taken.

    The search ends after more than `limit` steps.
    """
    seen: set[str] = set()
    queue, steps = [module], 0
    while queue and steps <= limit:
        name = queue.pop()
        if name == dependency:
            return True, steps
        if name not in seen:
            seen.add(name)
            queue += graph[name]
            steps += 1 + len(graph[name])
    return False, steps


def _sort(tree: ModuleTree, graph: Graph) -> list[str]:
    try:
        return list(TopologicalSorter(graph).static_order())
    except CycleError as error:
        names = error.args[1][::-1]
        circle = " needs ".join(names[:_MAX_CIRCLE_NAMED])
        circle += " needs …" if len(names) > _MAX_CIRCLE_NAMED else ""
        raise HostError(
            f"cannot order the modules in {tree.directory}", circle, tree.hint
        ) from None
