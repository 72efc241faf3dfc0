"""The running system: everything that looks at it or changes it goes through here.

One thin class, handed to whoever needs it, so that a test hands over one that records calls and
fails when told to. No decisions are made here.
"""

import errno
import posix as os
import time
from _stat import S_IFCHR, S_IMODE, S_ISBLK, S_ISDIR

from initrd.guest import _syscalls
from initrd.guest.rmtree import remove_contents
from initrd.text import decode, encode

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable


def read_all(fd: int) -> bytes:
    """Return what comes from a descriptor up to its end."""
    return b"".join(iter(lambda: os.read(fd, 65536), b""))


def read_file(path: "str | bytes", limit: "int | None" = None) -> bytes:
    """Return what is in a file, or its first `limit` bytes. Raises OSError.

    A named pipe that nobody writes to is empty: a root may have one in the place of /etc/passwd,
    and opening it the usual way would wait for ever.
    """
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        return read_all(fd) if limit is None else os.read(fd, limit)
    finally:
        os.close(fd)


def read_records(path: str) -> "list[bytes]":
    """Return what each read(2) gives of a device, until it would have to wait. Raises OSError."""
    records: list[bytes] = []
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        while True:
            records.append(os.read(fd, 65536))
    except BlockingIOError:
        return records
    finally:
        os.close(fd)


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
        """Move what is in one open directory to another; see `initrd.guest.movetree`."""
        from initrd.guest.movetree import move_tree  # noqa: PLC0415

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


class Kernel(LayerFiles):
    """The kernel this program runs on. Every method raises OSError as the call behind it does."""

    def mount(self, source: str, target: str, fstype: str, flags: int, data: str) -> None:
        """mount(2)."""
        _syscalls.mount(source, target, fstype, flags, data)

    def unmount(self, target: str, flags: int = 0) -> None:
        """umount2(2)."""
        _syscalls.umount(target, flags)

    def load_module(self, path: str, params: str, flags: int) -> None:
        """finit_module(2) with the file at `path`; a named pipe there is not waited for."""
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            _syscalls.finit_module(fd, params, flags)
        finally:
            os.close(fd)

    def make_directory(self, path: str) -> None:
        """mkdir(2) with mode 0755, parents included; an existing directory is fine."""
        try:
            os.mkdir(path, 0o755)
        except FileNotFoundError:
            self.make_directory(path.rstrip("/").rpartition("/")[0])
            os.mkdir(path, 0o755)
        except OSError as error:
            # EEXIST: it is there. EROFS comes first on some file systems, even when it is there.
            if error.errno not in (errno.EEXIST, errno.EROFS) or not _is_directory(os.stat, path):
                raise

    def make_node(self, path: str, mode: int, major: int, minor: int) -> None:
        """mknod(2) of a character device, with exactly this mode whatever the umask."""
        os.mknod(path, S_IFCHR | mode, os.makedev(major, minor))
        os.chmod(path, mode)

    def symlink(self, to: str, path: str) -> None:
        """symlink(2)."""
        os.symlink(to, path)

    def exists(self, path: str) -> bool:
        """Tell whether there is anything at `path`, a dangling symlink included."""
        try:
            os.lstat(path)
        except (FileNotFoundError, NotADirectoryError):
            return False
        return True

    def is_directory(self, path: str) -> bool:
        """Tell whether `path` itself (not what a symlink leads to) is a directory."""
        return _is_directory(os.lstat, path)

    def list_directory(self, path: str) -> list[str]:
        """Return the sorted names in a directory; none when there is no such directory."""
        try:
            return sorted(os.listdir(path))
        except (FileNotFoundError, NotADirectoryError):
            return []

    def read(self, path: str) -> str:
        """Return the text of a file, bytes that are no UTF-8 as surrogates."""
        return decode(self.read_bytes(path))

    def write_file(self, path: str, text: str) -> None:
        """Write a whole file, made with mode 0644 where it is missing."""
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
        try:
            os.write(fd, encode(text))
        finally:
            os.close(fd)

    def resolve(self, path: str) -> str:
        """Return where a path leads through symbolic links, whether there is anything or not."""
        from posixpath import realpath  # noqa: PLC0415  (imports os, and few boots ask)

        return realpath(path)

    def read_bytes(self, path: str) -> bytes:
        """Return what is in a file."""
        return read_file(path)

    def open_port(self, path: str) -> int:
        """Return a non-blocking descriptor of a device, closed at the next execve(2)."""
        return os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)

    def unlink(self, path: str) -> None:
        """unlink(2)."""
        os.unlink(path)

    def interface_up(self, name: str) -> None:
        """Bring a network interface up."""
        _syscalls.interface_up(name)

    def set_hostname(self, name: str) -> None:
        """sethostname(2)."""
        _syscalls.set_hostname(name)

    def open_directory(self, path: str) -> int:
        """Return a descriptor of a directory, closed at the next execve(2)."""
        return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)

    def close(self, fd: int) -> None:
        """close(2)."""
        os.close(fd)

    def device(self, fd: int) -> int:
        """Return the number of the device that an open file is on."""
        return os.fstat(fd).st_dev

    def empty(self, fd: int) -> None:
        """Delete everything in an open directory, on its own file system only."""
        remove_contents(fd)

    def filesystem_type(self, fd: int) -> int:
        """Return f_type of fstatfs(2)."""
        return _syscalls.filesystem_type(fd)

    def chroot(self, path: str) -> None:
        """chroot(2)."""
        os.chroot(path)

    def chdir(self, path: str) -> None:
        """chdir(2)."""
        os.chdir(path)

    def pid(self) -> int:
        """getpid(2)."""
        return os.getpid()

    def monotonic(self) -> float:
        """Return seconds on a clock that only goes forward."""
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        """Wait."""
        time.sleep(seconds)

    def write(self, fd: int, data: bytes) -> None:
        """write(2)."""
        os.write(fd, data)

    def open_log(self) -> int:
        """Return a descriptor of /dev/kmsg, closed at the next execve(2)."""
        return os.open("/dev/kmsg", os.O_WRONLY | os.O_CLOEXEC)

    def read_log(self) -> "list[bytes]":
        """Return the records of the kernel log."""
        return read_records("/dev/kmsg")

    def reset_signals(self) -> None:
        """Give every signal its default disposition and empty the mask."""
        _syscalls.reset_signals()

    def execute(self, path: str, argv: "list[bytes]", environ: "dict[bytes, bytes]") -> None:
        """execve(2): returns only by raising."""
        os.execve(path, argv, environ)

    def sync(self) -> None:
        """sync(2)."""
        os.sync()

    def power_off(self) -> None:
        """sync(2), then reboot(2) with RB_POWER_OFF."""
        os.sync()
        _syscalls.reboot(_syscalls.RB_POWER_OFF)

    def exit(self, status: int) -> None:
        """End this process at once; for PID 1 the kernel panics."""
        os._exit(status)


def _is_directory(stat: "Callable[[str], os.stat_result]", path: str) -> bool:
    """Tell whether `path` is a directory, for stat(2) or lstat(2)."""
    try:
        return S_ISDIR(stat(path).st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return False
