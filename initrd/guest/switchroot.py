"""Moves into the new root and frees the initramfs: the most dangerous thing this program does.

The initramfs cannot be unmounted, only emptied (`initrd.guest.rmtree`). Before that it is checked
to be a RAM file system, and not the one that programs will run from.

Source: the kernel's `Documentation/filesystems/ramfs-rootfs-initramfs.rst`.
"""

from initrd.guest._syscalls import RAMFS_MAGIC, TMPFS_MAGIC
from initrd.guest.execute import execute, timed
from initrd.guest.failure import BootError, reason
from initrd.guest.log import Log
from initrd.guest.plan import MOVED, SYSROOT, api_mount_moves
from initrd.guest.steps import Move

TYPE_CHECKING = False
if TYPE_CHECKING:
    from initrd.guest.kernel import Kernel


def move_api_mounts(kernel: "Kernel", log: Log) -> None:
    """Move the API mounts below the new root; unmount those that have no directory there."""
    present = tuple(path for path in MOVED if kernel.is_directory(SYSROOT + path))
    for path in MOVED:
        if path not in present:
            log.warn(f"the root has no directory {path}: the target runs without it")
    execute(api_mount_moves(present), kernel, log)


def switch_root(kernel: "Kernel", log: Log) -> int:
    """Make what is mounted at /sysroot the root directory.

    Returns a descriptor of the old root, which nothing else leads to any more.
    """
    old_root = kernel.open_directory("/")
    kernel.chdir(SYSROOT)
    execute((Move(".", "/"),), kernel, log)
    kernel.chroot(".")
    kernel.chdir("/")
    return old_root


def free_initramfs(old_root: int, kernel: "Kernel", log: Log) -> None:
    """Delete everything in the initramfs, so that its memory is free when the target runs."""
    try:
        check_disposable(old_root, kernel)
        timed("free the initramfs", lambda: kernel.empty(old_root), kernel, log)
    except OSError as error:
        raise BootError("cannot free the initramfs", reason(error)) from error
    finally:
        kernel.close(old_root)


def is_ram_filesystem(fd: int, kernel: "Kernel") -> bool:
    """Tell whether a descriptor is on the kind of file system that an initramfs is."""
    return kernel.filesystem_type(fd) in (TMPFS_MAGIC, RAMFS_MAGIC)


def check_disposable(old_root: int, kernel: "Kernel") -> None:
    """Raise BootError unless `old_root` is a RAM file system, and not what is `/` now."""
    root = kernel.open_directory("/")
    same = kernel.device(root) == kernel.device(old_root)
    kernel.close(root)
    if same or not is_ram_filesystem(old_root, kernel):
        raise BootError("cannot free the initramfs", "what was / is no initramfs; nothing deleted")
