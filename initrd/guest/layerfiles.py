"""What `initrd.guest.kernel.Kernel` can do besides for roots and layers: files and one daemon.

As there: no decisions, and every method raises OSError as the call behind it does.
"""

import errno
import posix as os  # what `os` is made of: importing `os` itself would double the imports' cost
from _stat import S_IMODE, S_ISBLK

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable


class LayerFiles:
    """The part of `Kernel` that a boot from a single virtiofs tag never calls."""

    def is_block_device(self, path: str) -> bool:
        """Tell whether `path`, or what a symlink leads to, is a block device."""
        try:
            return S_ISBLK(os.stat(path).st_mode)
        except (FileNotFoundError, NotADirectoryError):
            return False

    def file_mode(self, path: str) -> int:
        """Return type and mode of `path` itself; 0 when there is nothing."""
        try:
            return os.lstat(path).st_mode
        except (FileNotFoundError, NotADirectoryError):
            return 0

    def read_link(self, path: str) -> str:
        """Return where a symlink leads; nothing when `path` is none."""
        try:
            return os.readlink(path)
        except OSError:  # EINVAL: something else is there; whoever uses it will see what
            return ""

    def real_path(self, path: str) -> str:
        """Return where a directory is, links resolved, as the mount table names it."""
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            return os.readlink(f"/proc/self/fd/{fd}")
        finally:
            os.close(fd)

    def has_acls(self, path: str) -> bool:
        """Tell whether the file system at `path` keeps access control lists, acl(5)."""
        try:
            os.getxattr(path, "system.posix_acl_access")
        except OSError as error:
            return error.errno == errno.ENODATA  # it could have one
        return True

    def read_at(self, path: str, offset: int, length: int) -> bytes:
        """Return `length` bytes of a file or device from `offset`; fewer where it ends before."""
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            return os.pread(fd, length, offset)
        finally:
            os.close(fd)

    def make_fifo(self, path: str) -> None:
        """mkfifo(3) with mode 0600."""
        os.mkfifo(path, 0o600)

    def remove_directory(self, path: str) -> None:
        """rmdir(2)."""
        os.rmdir(path)

    def copy_access(self, source: str, target: str) -> None:
        """Give `target` the owner and the mode of `source`: chown(2), chmod(2)."""
        found = os.stat(source)
        os.chown(target, found.st_uid, found.st_gid)
        os.chmod(target, S_IMODE(found.st_mode))

    def space(self, path: str) -> tuple[int, int]:
        """Return the size of a file system and what is free of it, in bytes: statvfs(3)."""
        found = os.statvfs(path)
        return found.f_blocks * found.f_frsize, found.f_bfree * found.f_frsize

    def move_tree(
        self, source: int, target: int, stays: "Callable[[tuple[str, ...]], bool]"
    ) -> None:
        """Move what is in one open directory to another; see `initrd.guest.moving`."""
        from initrd.guest.moving import move_tree  # noqa: PLC0415

        move_tree(source, target, stays)

    def start_daemon(
        self, root: str, argv: list[bytes], environ: dict[bytes, bytes], log: str
    ) -> int:
        """Start a program in the directory `root`, return its pid; see `initrd.guest.daemon`."""
        from initrd.guest.daemon import start_daemon  # noqa: PLC0415

        return start_daemon(root, argv, environ, log)

    def wait_status(self, pid: int) -> int | None:
        """Return how a child has ended: its exit status, or minus a signal; None: it runs."""
        ended, status = os.waitpid(pid, os.WNOHANG)
        return os.waitstatus_to_exitcode(status) if ended else None

    def keep_serving(self, pid: int) -> None:
        """Have a stopped file system daemon continue at each request; see `initrd.guest.daemon`."""
        from initrd.guest.daemon import keep_serving  # noqa: PLC0415

        keep_serving(pid)
