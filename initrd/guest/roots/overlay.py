"""Mount a writable layer over the root with the kernel's overlayfs.

The layers are mounted at /rom and /overlay before they are merged, and are then moved to the same
paths of the merged tree. So the paths in the overlay's mount options are right in the target too.
`initrd.guest.roots.fuse` merges the same layers with a program of the root.

Sources: the kernel's `Documentation/filesystems/overlayfs.rst` and `tmpfs.rst`.
"""

import errno

from initrd.guest._syscalls import MS_BIND, MS_NOATIME
from initrd.guest.execute import execute
from initrd.guest.failure import BootError
from initrd.guest.log import Log
from initrd.guest.plan import SYSROOT
from initrd.guest.roots.steps import CreateDirectory, CreateDirectoryLike
from initrd.guest.steps import Mount, Move, Step
from initrd.options import BootOptions

TYPE_CHECKING = False
if TYPE_CHECKING:
    from initrd.guest.kernel import Kernel

LOWER = "/rom"  # the root without the overlay, read-only
LAYER = "/overlay"  # the file system with the next two
UPPER, WORK = f"{LAYER}/root", f"{LAYER}/work"
# A second mount of it, where systemd unmounts nothing. systemd unmounts /overlay, but the merged
# tree still uses the file system, and at the end of the shutdown systemd makes only those file
# systems read-only that are still mounted.
LAYER_AT_SHUTDOWN = "/run/initramfs/overlay"
VOLUMES = "/volumes"  # mount points of data volumes, which launchers of micro-VMs expect
KERNEL_UNION = "overlay"  # of UNIONS, the kernel's; the others are programs of the root

# redirect_dir: without it rename(2) of a directory of the lower layer fails with EXDEV.
# index, metacopy: both tie the upper layer to particular files of the lower one, which may have
# been replaced at the next boot. A kernel may have been configured with them as defaults.
OVERLAY_OPTIONS = "redirect_dir=on,index=off,metacopy=off"


def check_union(union: str, kernel: "Kernel") -> None:
    """Raise BootError unless the kernel has the file system type that `union` needs."""
    fstype = "overlay" if union == KERNEL_UNION else "fuse"
    if fstype in kernel.read("/proc/filesystems").split():
        return
    why = f"this kernel has no {fstype} file system, and no module in the image brings it"
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
    """The mount of a writable layer on a block device."""

    def hint(self, error: OSError) -> str:
        """Return how to repair the file system, for an error that damage causes."""
        damaged = error.errno in (errno.EIO, errno.EUCLEAN, errno.EBADMSG, errno.EINVAL)
        return "check the file system with e2fsck" if damaged else ""


def layer_steps(device: str, size: str) -> tuple[Step, ...]:
    """Return the steps that mount the writable layer; on a tmpfs of `size` without a `device`."""
    # errors=remount-ro: a damaged file system can be read, and is not written to any more
    disk = Layer(device, LAYER, "ext4", MS_NOATIME, "errors=remount-ro")
    memory = Mount("tmpfs", LAYER, "tmpfs", MS_NOATIME, f"mode=0755,size={size}")
    return (
        disk if device else memory,
        CreateDirectoryLike(UPPER, LOWER),  # it becomes the directory `/`
        CreateDirectory(WORK),
    )


def overlay_mount() -> Mount:
    """Return the mount of the merged layers at /sysroot. The paths in `data` need no escaping."""
    data = f"lowerdir={LOWER},upperdir={UPPER},workdir={WORK},{OVERLAY_OPTIONS}"
    return Mount("overlay", SYSROOT, "overlay", MS_NOATIME, data)


def layer_move_steps(*, volumes: bool) -> tuple[Step, ...]:
    """Return the steps that move the layers into the merged tree; `volumes`: and make /volumes."""
    return (
        *((CreateDirectory(SYSROOT + VOLUMES),) if volumes else ()),
        CreateDirectory(SYSROOT + LOWER),
        Move(LOWER, SYSROOT + LOWER),
        CreateDirectory(SYSROOT + LAYER),  # for the user to read, and for the shutdown to unmount
        Move(LAYER, SYSROOT + LAYER),
    )


def check_layer_paths(kernel: "Kernel", log: Log) -> None:
    """Warn of files of the root that the mounts at /rom and /overlay hide.

    Raises BootError where one of the two paths of the root cannot be a mount point.
    """
    for path in (LOWER, LAYER):
        mount_point = SYSROOT + path
        if kernel.exists(mount_point) and not kernel.is_directory(mount_point):
            raise BootError(
                f"cannot show the layers of the root at {path}",
                f"the root has a {path} that is no directory",
                f"remove {path} from the root, or boot without overlay_root=",
            )
        if kernel.list_directory(mount_point):
            log.warn(f"the root has files in {path}: they are hidden now, see {LOWER}{path}")


def mount_layer(options: BootOptions, device: str, kernel: "Kernel", log: Log) -> None:
    """Mount the writable layer at /overlay: ext4 on `device`; a tmpfs when `device` is empty."""
    if device and options.overlay_size != BootOptions.overlay_size:
        log.warn(f"initrd.overlay_size= is for overlay_root=ram; {device} has its own size")
    execute(layer_steps(device, options.overlay_size), kernel, log)


def mount_union(device: str, kernel: "Kernel", log: Log) -> None:
    """Merge the layers at /rom and /overlay with the kernel's overlayfs, at /sysroot."""
    # A layer in memory has no data that must reach a disk at shutdown.
    at_shutdown = (Mount(LAYER, LAYER_AT_SHUTDOWN, "", MS_BIND),) if device else ()
    execute((overlay_mount(), *at_shutdown), kernel, log)


def move_layers(kernel: "Kernel", log: Log) -> None:
    """Move the mounts of the layers into the merged tree at /sysroot, to the same paths."""
    check_layer_paths(kernel, log)
    # A /volumes of the root, perhaps a link to a directory, is left as it is.
    execute(layer_move_steps(volumes=not kernel.exists(SYSROOT + VOLUMES)), kernel, log)
