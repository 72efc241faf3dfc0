"""System calls and file operations of /init, as the methods of one class.

Functions that read or change the system take a `Kernel` as an argument. Tests pass a fake, which
records calls and raises the errors that a test sets. No decisions are made here.
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

_PIECE, _MAX_FILE = 1 << 16, 1 << 24  # bytes that are read at once, and of a whole file


def read_file(path: "str | bytes") -> bytes:
    """Return the contents of a file. Raises OSError.

    A named pipe without a writer reads as empty: a root may have one in the place of /etc/passwd,
    and open(2) without O_NONBLOCK would wait for a writer. More than _MAX_FILE bytes are an error:
    a symbolic link to /dev/zero may be there, too.
    """
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    content = bytearray()
    try:
        while piece := os.read(fd, _PIECE):
            content += piece
            if len(content) > _MAX_FILE:
                raise OSError(errno.EFBIG, os.strerror(errno.EFBIG))
        return bytes(content)
    except OSError as error:
        error.filename = path  # read(2) has no path, and this may be a directory
        raise
    finally:
        os.close(fd)


def read_records(path: str) -> "list[bytes]":
    """Return the result of each read(2) of a device until EAGAIN. Raises OSError."""
    records: list[bytes] = []
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        while True:
            records.append(os.read(fd, 65536))
    except BlockingIOError:
        return records
    finally:
        os.close(fd)


class RootOperations:
    """Methods of `Kernel` for `initrd.guest.roots`; a boot from one virtiofs tag calls none."""

    def is_block_device(self, path: str) -> bool:
        """Return whether `path` is a block device; symbolic links are followed."""
        try:
            return S_ISBLK(os.stat(path).st_mode)
        except (FileNotFoundError, NotADirectoryError):
            return False

    def file_mode(self, path: str) -> int:
        """Return st_mode of lstat(2); 0 when `path` does not exist."""
        try:
            return os.lstat(path).st_mode
        except (FileNotFoundError, NotADirectoryError):
            return 0

    def read_link(self, path: str) -> str:
        """Return the target of a symbolic link; empty when `path` is not a symbolic link."""
        try:
            return os.readlink(path)
        except OSError:  # EINVAL: not a symbolic link; other errors recur when the path is used
            return ""

    def real_path(self, path: str) -> str:
        """Return the path of a directory without symbolic links, as mountinfo shows it."""
        fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            return os.readlink(f"/proc/self/fd/{fd}")
        finally:
            os.close(fd)

    def has_acls(self, path: str) -> bool:
        """Return whether the file system at `path` supports access control lists, acl(5)."""
        try:
            os.getxattr(path, "system.posix_acl_access")
        except OSError as error:
            return error.errno == errno.ENODATA  # supported, and this file has none
        return True

    def read_at(self, path: str, offset: int, length: int) -> bytes:
        """Return `length` bytes of a file or device from `offset`; fewer at its end."""
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
        status = os.stat(source)
        os.chown(target, status.st_uid, status.st_gid)
        os.chmod(target, S_IMODE(status.st_mode))

    def space(self, path: str) -> tuple[int, int]:
        """Return the size and the free space of a file system in bytes: statvfs(3)."""
        status = os.statvfs(path)
        return status.f_blocks * status.f_frsize, status.f_bfree * status.f_frsize

    def move_tree(
        self, source: int, target: int, is_excluded: "Callable[[tuple[str, ...]], bool]"
    ) -> None:
        """Move the contents of an open directory to another; see `initrd.guest.movetree`."""
        from initrd.guest.movetree import move_tree  # noqa: PLC0415

        move_tree(source, target, is_excluded)

    def start_daemon(
        self, root: str, argv: list[bytes], environ: dict[bytes, bytes], log: str
    ) -> int:
        """Start a program in the directory `root`; return its pid. See `initrd.guest.daemon`."""
        from initrd.guest.daemon import start_daemon  # noqa: PLC0415

        return start_daemon(root, argv, environ, log)

    def wait_status(self, pid: int) -> int | None:
        """Return a child's exit status, or minus its signal number; None while it runs."""
        ended_pid, status = os.waitpid(pid, os.WNOHANG)
        return os.waitstatus_to_exitcode(status) if ended_pid else None

    def keep_serving(self, pid: int) -> None:
        """Continue a stopped FUSE daemon at each request; see `initrd.guest.daemon`."""
        from initrd.guest.daemon import keep_serving  # noqa: PLC0415

        keep_serving(pid)


class Kernel(RootOperations):
    """The running kernel. Each method raises OSError as the system call that it makes does."""

    def mount(self, source: str, target: str, fstype: str, flags: int, data: str) -> None:
        """mount(2)."""
        _syscalls.mount(source, target, fstype, flags, data)

    def unmount(self, target: str, flags: int = 0) -> None:
        """umount2(2)."""
        _syscalls.umount(target, flags)

    def load_module(self, path: str, params: str, flags: int) -> None:
        """finit_module(2) with the file at `path`. Opening a named pipe does not block."""
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            _syscalls.finit_module(fd, params, flags)
        finally:
            os.close(fd)

    def make_directory(self, path: str) -> None:
        """mkdir(2) with mode 0755, parents included; an existing directory is no error."""
        try:
            os.mkdir(path, 0o755)
        except FileNotFoundError:
            self.make_directory(path.rstrip("/").rpartition("/")[0])
            os.mkdir(path, 0o755)
        except OSError as error:
            # EEXIST: the path exists. Some file systems return EROFS even for a path that exists.
            if error.errno not in (errno.EEXIST, errno.EROFS) or not _is_directory(os.stat, path):
                raise

    def make_node(self, path: str, mode: int, major: int, minor: int) -> None:
        """mknod(2) of a character device with exactly this mode: the umask is not applied."""
        os.mknod(path, S_IFCHR | mode, os.makedev(major, minor))
        os.chmod(path, mode)

    def symlink(self, to: str, path: str) -> None:
        """symlink(2)."""
        os.symlink(to, path)

    def exists(self, path: str) -> bool:
        """Return whether `path` exists; a dangling symbolic link does."""
        try:
            os.lstat(path)
        except (FileNotFoundError, NotADirectoryError):
            return False
        return True

    def is_directory(self, path: str) -> bool:
        """Return whether `path` is a directory; a symbolic link to one is not."""
        return _is_directory(os.lstat, path)

    def list_directory(self, path: str) -> list[str]:
        """Return the sorted names in a directory; an empty list when it does not exist."""
        try:
            return sorted(os.listdir(path))
        except (FileNotFoundError, NotADirectoryError):
            return []

    def read(self, path: str) -> str:
        """Return the text of a file, bytes that are not UTF-8 as surrogates."""
        return decode(self.read_bytes(path))

    def write_file(self, path: str, text: str) -> None:
        """Replace the contents of a file, which is created with mode 0644 when it is missing."""
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
        try:
            os.write(fd, encode(text))
        finally:
            os.close(fd)

    def resolve(self, path: str) -> str:
        """Return a path with symbolic links resolved; it need not exist: realpath(3)."""
        from posixpath import realpath  # noqa: PLC0415 - imports os, seldom needed

        return realpath(path)

    def read_bytes(self, path: str) -> bytes:
        """Return the contents of a file."""
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

    def open_to_write(self, path: str) -> int:
        """Return a descriptor to write an existing file, closed at the next execve(2)."""
        return os.open(path, os.O_WRONLY | os.O_CLOEXEC)

    def write_at(self, fd: int, data: bytes, offset: int) -> None:
        """pwrite(2)."""
        os.pwrite(fd, data, offset)

    def populate_memory(self) -> None:
        """Put all pages of this process into its page tables, so that none causes a fault."""
        _syscalls.populate_memory()

    def add_entropy(self, fd: int, seed: bytes) -> None:
        """Renew the kernel's random numbers with a secret seed; `fd`: /dev/random, open."""
        _syscalls.add_entropy(fd, seed)

    def set_realtime(self, microseconds: int) -> None:
        """Set CLOCK_REALTIME to `microseconds` since 1970: clock_settime(2)."""
        time.clock_settime_ns(time.CLOCK_REALTIME, microseconds * 1000)

    def open_directory(self, path: str) -> int:
        """Return a descriptor of a directory, closed at the next execve(2)."""
        return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)

    def close(self, fd: int) -> None:
        """close(2)."""
        os.close(fd)

    def device(self, fd: int) -> int:
        """Return the device number of the file system of an open file: st_dev of fstat(2)."""
        return os.fstat(fd).st_dev

    def empty(self, fd: int) -> None:
        """Delete the contents of an open directory, on its own file system only."""
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
        """Return CLOCK_MONOTONIC in seconds: clock_gettime(2)."""
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        """Wait for `seconds`."""
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
        """execve(2): returns only by raising OSError."""
        os.execve(path, argv, environ)

    def sync(self) -> None:
        """sync(2)."""
        os.sync()

    def power_off(self) -> None:
        """sync(2), then reboot(2) with RB_POWER_OFF."""
        os.sync()
        _syscalls.reboot(_syscalls.RB_POWER_OFF)

    def exit(self, status: int) -> None:
        """_exit(2). The kernel panics when PID 1 exits."""
        os._exit(status)


def _is_directory(stat: "Callable[[str], os.stat_result]", path: str) -> bool:
    """Return whether `path` is a directory as the given stat(2) or lstat(2) reports it."""
    try:
        return S_ISDIR(stat(path).st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return False
