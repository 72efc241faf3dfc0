"""The running system: everything that looks at it or changes it goes through here.

One thin class, handed to whoever needs it, so that a test hands over one that records calls and
fails when told to. No decisions are made here.
"""

import errno
import posix as os  # what `os` is made of: importing `os` itself would double the imports' cost
import time
from _stat import S_IFCHR, S_ISDIR

from initrd.guest import _syscalls
from initrd.guest.emptying import empty
from initrd.guest.files import read_file, read_records
from initrd.guest.layerfiles import LayerFiles
from initrd.guest.text import decode, encode

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable


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
        empty(fd)

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
