"""Switch to the new root and free the memory of the initramfs.

The initramfs cannot be unmounted. Its files are deleted (`initrd.guest.rmtree`), which is the most
dangerous operation of /init: before it, the old root is checked to be a RAM file system and not the
file system that is now `/`.

Source: the kernel's `Documentation/filesystems/ramfs-rootfs-initramfs.rst`.
"""

from initrd.errors import reason
from initrd.guest._syscalls import RAMFS_MAGIC, TMPFS_MAGIC
from initrd.guest.execute import execute, timed
from initrd.guest.failure import BootError
from initrd.guest.log import Log
from initrd.guest.plan import API_MOUNT_POINTS, SYSROOT, api_mount_moves
from initrd.guest.steps import Move

TYPE_CHECKING = False
if TYPE_CHECKING:
    from initrd.guest.kernel import Kernel


def move_api_mounts(kernel: "Kernel", log: Log) -> None:
    """Move the API mounts into the new root; unmount those without a directory there."""
    present = tuple(path for path in API_MOUNT_POINTS if kernel.is_directory(SYSROOT + path))
    for path in API_MOUNT_POINTS:
        if path not in present:
            log.warn(f"the root has no directory {path}: the target runs without it")
    execute(api_mount_moves(present), kernel, log)


def switch_root(kernel: "Kernel", log: Log) -> int:
    """Make the mount at /sysroot the root directory.

    Returns a descriptor of the old root directory, which has no path from then on.
    """
    old_root = kernel.open_directory("/")
    kernel.chdir(SYSROOT)
    execute((Move(".", "/"),), kernel, log)
    kernel.chroot(".")
    kernel.chdir("/")
    return old_root


def free_initramfs(old_root: int, kernel: "Kernel", log: Log) -> None:
    """Delete the contents of the initramfs, so that its memory is free for the target."""
    try:
        check_old_root(old_root, kernel)
        timed("free the initramfs", lambda: kernel.empty(old_root), kernel, log)
    except OSError as error:
        path = f"{error.filename}: " if isinstance(error.filename, str) else ""
        raise BootError("cannot free the initramfs", path + reason(error)) from error
    finally:
        kernel.close(old_root)


def is_ram_filesystem(fd: int, kernel: "Kernel") -> bool:
    """Return whether a descriptor is on ramfs or tmpfs, as the files of an initramfs are."""
    return kernel.filesystem_type(fd) in (TMPFS_MAGIC, RAMFS_MAGIC)


def check_old_root(old_root: int, kernel: "Kernel") -> None:
    """Raise BootError unless `old_root` is on a RAM file system other than that of `/`."""
    root = kernel.open_directory("/")
    is_current_root = kernel.device(root) == kernel.device(old_root)
    kernel.close(root)
    if is_current_root or not is_ram_filesystem(old_root, kernel):
        raise BootError("cannot free the initramfs", "what was / is no initramfs; nothing deleted")
