"""Puts a writable layer over the root: the kernel's overlayfs, or a program of the root.

The layers are mounted at /rom and /overlay before they are merged, and move to the same paths of
the merged tree: what the target reads in its mount table is where the layers are.

Sources: the kernel's `Documentation/filesystems/overlayfs.rst` and `tmpfs.rst`.
"""

import errno

from initrd.guest._syscalls import MS_BIND, MS_NOATIME
from initrd.guest.execute import execute
from initrd.guest.failure import BootError
from initrd.guest.log import Log
from initrd.guest.plan import SYSROOT
from initrd.guest.roots.steps import Directory, DirectoryLike
from initrd.guest.steps import Mount, Move, Step
from initrd.options import BootOptions

TYPE_CHECKING = False
if TYPE_CHECKING:
    from initrd.guest.kernel import Kernel

LOWER = "/rom"  # the root as it was, read-only
LAYER = "/overlay"  # the one file system that holds both of these
UPPER, WORK = f"{LAYER}/root", f"{LAYER}/work"
# The same again, where systemd unmounts nothing: it unmounts /overlay, but the merged tree goes on
# using the file system, and only what is still mounted at the very end is made read-only then.
LAYER_AT_SHUTDOWN = "/run/initramfs/overlay"
VOLUMES = "/volumes"  # a place for data volumes, which launchers of micro-VMs count on
KERNEL_UNION = "overlay"  # of UNIONS, the one that is no program of the root

# redirect_dir: without it rename(2) of a directory of the lower layer fails with EXDEV.
# index, metacopy: both tie the upper layer to the very files of the lower one, which may be others
# at the next boot; whoever builds a kernel may have made them the default.
OVERLAY_OPTIONS = "redirect_dir=on,index=off,metacopy=off"


def check_union(union: str, kernel: "Kernel") -> None:
    """Raise BootError unless the kernel has the file system that `union` is made with."""
    wanted = "overlay" if union == KERNEL_UNION else "fuse"
    if wanted in kernel.read("/proc/filesystems").split():
        return
    why = f"this kernel has no {wanted} file system, and no module in the image brings it"
    image = "make the image with mkvirtinitrd --overlay"
    if union == KERNEL_UNION:
        raise BootError(
            "cannot make the overlay root",
            why,
            f"{image}; or let a program of the root merge the layers, "
            "initrd.union=fuse-overlayfs or initrd.union=unionfs-fuse",
        )
    raise BootError(f"cannot make the overlay root with {union}", why, f"{image} --module fuse")


class Layer(Mount):
    """The mount of the writable layer's file system; says what to do when that is damaged."""

    def hint(self, error: OSError) -> str:
        """Name the way to mend it."""
        damaged = error.errno in (errno.EIO, errno.EUCLEAN, errno.EBADMSG, errno.EINVAL)
        return "check the file system with e2fsck" if damaged else ""


def layer_steps(device: str, size: str) -> tuple[Step, ...]:
    """Return how the upper layer is mounted, beside the lower one."""
    # errors=remount-ro: go on reading, but write nothing more, when the file system is damaged
    layer = Layer(device, LAYER, "ext4", MS_NOATIME, "errors=remount-ro")
    memory = Mount("tmpfs", LAYER, "tmpfs", MS_NOATIME, f"mode=0755,size={size}")
    return (
        layer if device else memory,
        DirectoryLike(UPPER, LOWER),  # it becomes the directory `/`
        Directory(WORK),
    )


def overlay_mount() -> Mount:
    """Return the mount of both layers, merged by the kernel. Our own paths need no escaping."""
    data = f"lowerdir={LOWER},upperdir={UPPER},workdir={WORK},{OVERLAY_OPTIONS}"
    return Mount("overlay", SYSROOT, "overlay", MS_NOATIME, data)


def layer_move_steps(*, volumes: bool) -> tuple[Step, ...]:
    """Return how the layers come to be reachable in the merged tree; with /volumes if asked for."""
    return (
        *((Directory(SYSROOT + VOLUMES),) if volumes else ()),
        Directory(SYSROOT + LOWER),
        Move(LOWER, SYSROOT + LOWER),
        Directory(SYSROOT + LAYER),  # to be looked at, and for who shuts down to find
        Move(LAYER, SYSROOT + LAYER),
    )


def check_layer_paths(kernel: "Kernel", log: Log) -> None:
    """Say what the layers will hide of the root. Raises BootError where they cannot be mounted."""
    for path in (LOWER, LAYER):
        place = SYSROOT + path
        if kernel.exists(place) and not kernel.is_directory(place):
            raise BootError(
                f"cannot show the layers of the root at {path}",
                f"the root has a {path} that is no directory",
                f"remove {path} from the root, or boot without overlay_root=",
            )
        if kernel.list_directory(place):
            log.warn(f"the root has files in {path}: they are hidden now, see {LOWER}{path}")


def mount_layer(options: BootOptions, device: str, kernel: "Kernel", log: Log) -> None:
    """Mount the file system of the writable layer at /overlay; an empty `device` is a tmpfs."""
    if device and options.overlay_size != BootOptions.overlay_size:
        log.warn(f"initrd.overlay_size= is for overlay_root=ram; {device} has its own size")
    execute(layer_steps(device, options.overlay_size), kernel, log)


def mount_union(device: str, kernel: "Kernel", log: Log) -> None:
    """Merge the layers at /rom and /overlay by the kernel's overlayfs, at /sysroot."""
    # A layer in memory has nothing that must reach a disk at shutdown.
    kept = (Mount(LAYER, LAYER_AT_SHUTDOWN, "", MS_BIND),) if device else ()
    execute((overlay_mount(), *kept), kernel, log)


def move_layers(kernel: "Kernel", log: Log) -> None:
    """Move the mounts of the layers into the merged tree at /sysroot, to the same paths."""
    check_layer_paths(kernel, log)
    # A /volumes of the root's own, perhaps a link to a directory, stays as it is.
    execute(layer_move_steps(volumes=not kernel.exists(SYSROOT + VOLUMES)), kernel, log)
