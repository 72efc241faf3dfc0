"""Plan the boot: pure functions that return the mounts and other steps in their order."""

from initrd.guest._syscalls import MS_NODEV, MS_NOEXEC, MS_NOSUID, MS_RDONLY
from initrd.guest.steps import Mount, Move, Node, Step, Symlink, Unmount
from initrd.options import Share

SYSROOT = "/sysroot"
# The API mounts that are moved into the new root. /dev/pts and /dev/shm move with /dev.
API_MOUNT_POINTS = ("/run", "/dev", "/proc", "/sys", "/tmp")  # noqa: S108 - a mount point


def api_mounts() -> tuple[Mount, ...]:
    """Return the mounts of the API file systems, each after the one that it is mounted on."""
    strict = MS_NOSUID | MS_NOEXEC | MS_NODEV
    private = MS_NOSUID | MS_NODEV
    return (
        Mount("sysfs", "/sys", "sysfs", strict),
        Mount("devtmpfs", "/dev", "devtmpfs", MS_NOSUID, "mode=0755,size=4m"),
        Mount("proc", "/proc", "proc", strict),
        Mount("tmpfs", "/run", "tmpfs", private, "mode=0755,size=64m"),
        Mount("tmpfs", "/tmp", "tmpfs", private, "mode=1777,size=128m"),  # noqa: S108
        Mount(
            "devpts", "/dev/pts", "devpts", MS_NOSUID | MS_NOEXEC, "gid=5,mode=0620,ptmxmode=0666"
        ),
        Mount("tmpfs", "/dev/shm", "tmpfs", private, "mode=1777"),  # noqa: S108
    )


def device_nodes() -> tuple[Step, ...]:
    """Return the steps for what devtmpfs may lack: nodes of unloaded modules, and the links."""
    return (
        Node("/dev/kvm", 0o660, 10, 232),
        Node("/dev/loop-control", 0o660, 10, 237),
        Node("/dev/fuse", 0o666, 10, 229),
        Node("/dev/net/tun", 0o666, 10, 200),
        Symlink("/dev/fd", "/proc/self/fd"),
        Symlink("/dev/stdin", "/proc/self/fd/0"),
        Symlink("/dev/stdout", "/proc/self/fd/1"),
        Symlink("/dev/stderr", "/proc/self/fd/2"),
    )


def share_mount(share: Share, target: str, flags: str = "") -> Mount:
    """Return the mount of a virtiofs tag at `target`; `flags` are mount options of virtiofs."""
    readonly = 0 if share.writable else MS_RDONLY
    return Mount(share.tag, target, "virtiofs", readonly, flags)


def api_mount_moves(present: "tuple[str, ...]") -> tuple[Step, ...]:
    """Return the steps that move the API mounts into the new root.

    `present` are those of API_MOUNT_POINTS that the new root has as directories; the others are
    unmounted.
    """
    return tuple(
        Move(path, SYSROOT + path)
        if path in present
        else Unmount(path, f"the root has no directory {path}")
        for path in API_MOUNT_POINTS
    )
