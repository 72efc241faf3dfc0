"""The disk image of --overlay=FILE: create it when it is missing, and lock it for one machine.

A new image appears under its name when it is complete, or not at all. An existing image is never
written to on the host; the guest writes to it, and checks its contents further before it mounts it.

Sources: the kernel's `Documentation/filesystems/ext4/super.rst`, mkfs.ext4(8), flock(2).
"""

import errno
import fcntl
import os
import stat

from initrd.errors import reason
from initrd.host.machine.locate import find_program
from initrd.host.system.hosterror import HostError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

SIZE = 16 << 30  # bytes of a new image; it is sparse and takes little space before it is used
_SUPERBLOCK, _SUPERBLOCK_SIZE = 1024, 1024  # offset, bytes
_MAGIC_OFFSET, _MAGIC = 0x38, b"\x53\xef"  # s_magic, the same in ext2, ext3 and ext4
# Offsets of s_blocks_count_lo, s_blocks_count_hi, s_log_block_size and s_feature_incompat.
_BLOCKS_LOW, _BLOCKS_HIGH, _BLOCK_SHIFT, _INCOMPATIBLE = 0x04, 0x150, 0x18, 0x60
_HAS_64BIT, _MAX_SHIFT = 0x80, 6  # INCOMPAT_64BIT; blocks of 64 KiB are the largest
# -m 0: no blocks are reserved for root, because root writes everything in the image.
# lazy_journal_init: a new file consists of zeros already, and writing zeros would take space.
_MKFS_OPTIONS = ("-q", "-F", "-m", "0", "-E", "lazy_journal_init=1")


def lock_overlay_file(path: str, environment: "Mapping[str, str]") -> int:
    """Return a descriptor of the image at `path`, locked; create the image when it is missing.

    Closing the descriptor releases the lock. Raises HostError.
    """
    descriptor = _open(path)
    if descriptor < 0:
        make_overlay_file(path, environment)
        descriptor = _open(path)
        if descriptor < 0:
            raise HostError(_cannot_keep(path), "it was removed as soon as it was made")
    try:
        check_overlay_file(path, descriptor)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def check_overlay_file(path: str, descriptor: int) -> None:
    """Lock the open image. Raises HostError unless that is possible and the image holds ext4."""
    try:
        _check(path, descriptor)
    except OSError as error:  # a file system without locks, a disk that cannot be read
        raise HostError(_cannot_keep(path), reason(error)) from error


def _check(path: str, descriptor: int) -> None:
    mode = os.fstat(descriptor).st_mode
    if not (stat.S_ISREG(mode) or stat.S_ISBLK(mode)):
        raise HostError(_cannot_keep(path), "it is neither a file nor a disk")
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        why = "another chrootvm is using it"
        raise HostError(_cannot_keep(path), why, "wait for that to end, or another FILE") from error
    superblock = os.pread(descriptor, _SUPERBLOCK_SIZE, _SUPERBLOCK)
    if superblock[_MAGIC_OFFSET:][: len(_MAGIC)] != _MAGIC:
        why = "it does not hold an ext4 file system, and is left as it is"
        raise HostError(_cannot_keep(path), why, "a FILE that does not exist yet: it will be made")
    size, needed = os.lseek(descriptor, 0, os.SEEK_END), file_system_size(superblock)
    if size < needed:
        why = f"it is truncated: of the {needed} bytes of its file system there are {size}"
        raise HostError(
            _cannot_keep(path), why, "a complete copy, or a FILE that does not exist yet"
        )


def file_system_size(superblock: bytes) -> int:
    """Return the bytes that an ext4 file system takes; 0 if the superblock is incomplete.

    The kernel does not mount it where there are fewer. The numbers are little-endian.
    """
    if len(superblock) < _SUPERBLOCK_SIZE:
        return 0
    low, high, shift, features = (
        int.from_bytes(superblock[offset : offset + 4], "little")
        for offset in (_BLOCKS_LOW, _BLOCKS_HIGH, _BLOCK_SHIFT, _INCOMPATIBLE)
    )
    blocks = low | (high << 32 if features & _HAS_64BIT else 0)
    return blocks << (10 + min(shift, _MAX_SHIFT))


def make_overlay_file(
    path: str, environment: "Mapping[str, str]", unnamed: int = os.O_TMPFILE
) -> None:
    """Create a sparse image with an empty ext4 file system, unless the file exists when it is done.

    `unnamed` is the flag of open(2) for a file without a name. Raises HostError.
    """
    mkfs = find_mkfs(environment)
    path = os.path.realpath(path)
    temporary = ""
    try:
        image, temporary = _create(os.path.dirname(path), unnamed)
        try:
            os.ftruncate(image, SIZE)
            _format(mkfs, image, path)
            _link(image, path)
        finally:
            os.close(image)
    except OSError as error:
        hint = f"mkdir -p {os.path.dirname(path)}" if error.errno == errno.ENOENT else ""
        raise HostError(_cannot_make(path), reason(error), hint) from error
    finally:
        if temporary:
            _remove(temporary)


def find_mkfs(environment: "Mapping[str, str]", folders: str = "/usr/sbin:/sbin") -> str:
    """Return the path of mkfs.ext4: in PATH, or in `folders`, which not all users have in PATH."""
    path = ":".join(filter(None, (environment.get("PATH", ""), folders)))
    hint = "install it (package e2fsprogs), or a FILE that exists"
    return find_program("mkfs.ext4", {"PATH": path}, hint)


def _open(path: str) -> int:
    """Return a descriptor of the file at `path`; -1 when there is none. Raises HostError."""
    try:
        # O_NONBLOCK: open a named pipe without waiting for a writer, so that it can be reported.
        return os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
    except FileNotFoundError:
        return -1
    except IsADirectoryError as error:
        why = "it is a directory"
        raise HostError(_cannot_keep(path), why, f"the name of a file: {path}/FILE") from error
    except OSError as error:
        raise HostError(_cannot_keep(path), reason(error)) from error


def _create(folder: str, unnamed: int) -> tuple[int, str]:
    """Return a descriptor of a new file and its path; an empty path for a file without a name.

    A file without a name is gone when this process ends before the image is complete. Not all
    file systems have such files.
    """
    flags = os.O_RDWR | os.O_CLOEXEC
    try:
        return os.open(folder, unnamed | flags, 0o666), ""
    except OSError as error:
        # EOPNOTSUPP: the file system has no O_TMPFILE. EISDIR: the kernel has none.
        if error.errno not in (errno.EOPNOTSUPP, errno.EISDIR):
            raise
    path = f"{folder}/.{os.urandom(8).hex()}.tmp"
    return os.open(path, os.O_CREAT | os.O_EXCL | flags, 0o666), path


def _remove(path: str) -> None:
    try:
        os.unlink(path)
    except FileNotFoundError:  # the directory was removed meanwhile
        pass


def _format(mkfs: str, image: int, path: str) -> None:
    import subprocess  # noqa: PLC0415 - only for a new image

    done = subprocess.run(
        [mkfs, *_MKFS_OPTIONS, f"/proc/self/fd/{image}"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=False,
        pass_fds=(image,),
    )
    if done.returncode:
        output = " ".join(done.stderr.decode(errors="replace").split())
        why = f"{mkfs} ended with status {done.returncode}" + (f": {output}" if output else "")
        raise HostError(_cannot_make(path), why)


def _link(image: int, path: str) -> None:
    """Give the image its name. A file without a name takes linkat(2): see open(2), O_TMPFILE."""
    # With a directory descriptor os.link calls linkat(2). The path is absolute: any directory does.
    directory = os.open("/", os.O_PATH | os.O_CLOEXEC)
    try:
        os.link(f"/proc/self/fd/{image}", path, src_dir_fd=directory)
    except FileExistsError:  # another chrootvm has created an image meanwhile, which is used
        pass
    finally:
        os.close(directory)


def _cannot_keep(path: str) -> str:
    return f"cannot keep the overlay in {path}"


def _cannot_make(path: str) -> str:
    return f"cannot make {path} for the overlay"
