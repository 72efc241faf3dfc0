"""The disk image of --overlay=FILE: made when there is none, and used by one machine at a time.

A new one appears under its name when it is complete, or not at all. One that exists is never
written to here: the guest does that, and it looks closer at what the image holds.

Sources: the kernel's `Documentation/filesystems/ext4/super.rst`, mkfs.ext4(8), flock(2).
"""

import errno
import fcntl
import os
import stat
from contextlib import contextmanager

from initrd.errors import HostError, reason
from initrd.host.machine.locate import find_program

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

SIZE = 16 << 30  # bytes of a new image, hardly any of which are on the disk before they are written
_MAGIC_AT, _MAGIC = 1024 + 0x38, b"\x53\xef"  # s_magic, the same in ext2, ext3 and ext4
# No block is kept for root, who writes all of it. The journal of a new file is zeros already:
# writing them would take space.
_FORMAT = ("-q", "-F", "-m", "0", "-E", "lazy_journal_init=1")


@contextmanager
def lock_overlay_files(
    paths: tuple[str, ...], environment: "Mapping[str, str]"
) -> "Iterator[None]":
    """Have these disk images, for nobody else, as long as the `with` lasts. Raises HostError."""
    held = []
    try:
        for path in paths:
            held.append(lock_overlay_file(path, environment))
        yield
    finally:
        for descriptor in held:
            os.close(descriptor)


def lock_overlay_file(path: str, environment: "Mapping[str, str]") -> int:
    """Return a descriptor of the image at `path`, locked; make it where it is missing."""
    descriptor = _open(path)
    if descriptor < 0:
        make_overlay_file(path, environment)
        descriptor = _open(path)
    try:
        check_overlay_file(path, descriptor)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _open(path: str) -> int:
    """Return a descriptor of what is at `path`; -1 when there is nothing."""
    try:
        # O_NONBLOCK: a named pipe shall be named, not waited for
        return os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
    except FileNotFoundError:
        return -1
    except IsADirectoryError as error:
        why = "it is a directory"
        raise HostError(_what(path), why, f"the name of a file: {path}/FILE") from error
    except OSError as error:
        raise HostError(_what(path), reason(error)) from error


def check_overlay_file(path: str, descriptor: int) -> None:
    """Raise HostError unless the open image holds ext4 and can be locked."""
    kind = os.fstat(descriptor).st_mode
    if not (stat.S_ISREG(kind) or stat.S_ISBLK(kind)):
        raise HostError(_what(path), "it is neither a file nor a disk")
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        why = "another chrootvm is using it"
        raise HostError(_what(path), why, "wait for that to end, or another FILE") from error
    if os.pread(descriptor, len(_MAGIC), _MAGIC_AT) != _MAGIC:
        why = "it does not hold an ext4 file system, and is left as it is"
        raise HostError(_what(path), why, "a FILE that does not exist yet: it will be made")


def make_overlay_file(
    path: str, environment: "Mapping[str, str]", nameless: int = os.O_TMPFILE
) -> None:
    """Make a sparse image with an empty ext4 file system; one that appears meanwhile is left.

    `nameless`: the flag of open(2) for a file without a name.
    """
    program = find_mkfs(environment)
    path = os.path.realpath(path)
    name = ""
    try:
        image, name = _new(os.path.dirname(path), nameless)
        try:
            os.ftruncate(image, SIZE)
            _format(program, image, path)
            _name(image, path)
        finally:
            os.close(image)
    except OSError as error:
        raise HostError(_make(path), reason(error)) from error
    finally:
        if name:
            os.unlink(name)


def find_mkfs(environment: "Mapping[str, str]", folders: str = "/usr/sbin:/sbin") -> str:
    """Return the path of mkfs.ext4: on the path or in `folders`, which not all users have there."""
    path = ":".join(filter(None, (environment.get("PATH", ""), folders)))
    hint = "install it (package e2fsprogs), or a FILE that exists"
    return find_program("mkfs.ext4", {"PATH": path}, hint)


def _new(folder: str, nameless: int) -> tuple[int, str]:
    """Return a descriptor of a new file and its name: none where the file system can do that.

    Then nothing is left, whatever ends us before it is complete.
    """
    flags = os.O_RDWR | os.O_CLOEXEC
    try:
        return os.open(folder, nameless | flags, 0o666), ""
    except OSError as error:
        if error.errno not in (errno.EOPNOTSUPP, errno.EISDIR):  # the file system, the kernel
            raise
    name = f"{folder}/.{os.urandom(8).hex()}.tmp"
    return os.open(name, os.O_CREAT | os.O_EXCL | flags, 0o666), name


def _format(program: str, image: int, path: str) -> None:
    import subprocess  # noqa: PLC0415 - only for a new one

    done = subprocess.run(
        [program, *_FORMAT, f"/proc/self/fd/{image}"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=False,
        pass_fds=(image,),
    )
    if done.returncode:
        said = " ".join(done.stderr.decode(errors="replace").split())
        why = f"{program} ended with status {done.returncode}" + (f": {said}" if said else "")
        raise HostError(_make(path), why)


def _name(image: int, path: str) -> None:
    """Give the image its name: link(2), of a file that has none, takes linkat(2)."""
    nowhere = os.open("/", os.O_PATH | os.O_CLOEXEC)  # what an absolute path is relative to
    try:
        os.link(f"/proc/self/fd/{image}", path, src_dir_fd=nowhere)
    except FileExistsError:  # another chrootvm was faster: its image is as good
        pass
    finally:
        os.close(nowhere)


def _what(path: str) -> str:
    return f"cannot keep the overlay in {path}"


def _make(path: str) -> str:
    return f"cannot make {path} for the overlay"
