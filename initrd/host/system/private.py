"""A directory of files that only this user can change; all work in it is by descriptors.

`PrivateFolder.open` opens it by `safe_path`, which checks all components of the path. All else is
relative to the descriptor of the directory: nothing is read, written or removed through a symbolic
link, and a file is used only if it is a regular one that no other user can reach.

The module reads and changes only names that it could have made itself: `is_own_name`. It does not
protect from root, nor from other processes of this user.

Sources: openat(2), rename(2), flock(2).
"""

import errno
import fcntl
import os
import socket
import stat
import time

from initrd.errors import reason
from initrd.host.system.safe_path import (
    UnsafeFolder,
    cannot_use,
    check_directory,
    name_user,
    open_directory,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Self

TEMPORARY_MAX_AGE = 3600.0  # seconds; an older temporary file was left by a crash
_OTHERS = stat.S_IRWXG | stat.S_IRWXO
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# O_NONBLOCK: open a named pipe without waiting. O_NOCTTY: a terminal stays a mere file.
_FILE = os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY
# Errors of open(2) for a link and for other files that are no directory.
_NO_FOLDER = (errno.ELOOP, errno.ENOTDIR)
_ACCESS_MODES = (os.O_RDONLY, os.O_WRONLY, os.O_RDWR)
# Errors of open(2) that tell what kind of file it is: a link, a directory, a pipe without a reader
# or a socket, a device without a driver, a file that this user may not open.
_UNFIT = (errno.ELOOP, errno.EISDIR, errno.ENXIO, errno.ENODEV, errno.EACCES)
_HEX_DIGITS = "0123456789abcdef"
_LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789"


def is_own_name(name: str) -> bool:
    r"""Return whether a file of this name can be one of a private directory.

    The names are `[a-z0-9-]+(\.[a-z0-9]+)?` and those of temporary files, `.[0-9a-f]{16}\.tmp`.
    """
    stem, dot, suffix = name.partition(".")
    plain = _consists_of(stem, _LETTERS + "-") and (not dot or _consists_of(suffix, _LETTERS))
    return plain or is_temporary(name)


def is_temporary(name: str) -> bool:
    """Return whether a name is one of a temporary file or directory."""
    return name.startswith(".") and is_number(name[1:], 16, ".tmp")


def is_number(name: str, digits: int, suffix: str = "") -> bool:
    """Return whether a name consists of so many hexadecimal digits and a suffix."""
    number = name.removesuffix(suffix)
    return name == number + suffix and len(number) == digits and _consists_of(number, _HEX_DIGITS)


class FolderLock:
    """A lock that this process holds; leaving the `with` releases it."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def __enter__(self) -> "Self":
        return self

    def __exit__(self, *_: object) -> None:
        try:
            # Closing is not enough while a child process, just forked, has a copy.
            fcntl.flock(self._descriptor, fcntl.LOCK_UN)
        finally:
            os.close(self._descriptor)


class PrivateFolder:
    """An open private directory, for a `with`. Its methods raise OSError where they name no other.

    A file name that `is_own_name` does not know raises ValueError: it is an error of the caller.
    """

    def __init__(self, path: str, descriptor: int, *, readable: bool = False) -> None:
        """Take the descriptor of a directory that has been checked; `path` is for messages."""
        self._path = path
        self._descriptor = descriptor
        self._readable = readable

    @classmethod
    def open(cls, path: str, *, create: bool, readable: bool = False, own_names: int = 2) -> "Self":
        """Open the directory at the absolute `path`; `create`: make missing components.

        `readable`: other users may list the directory.
        `own_names`: how many components at the end may not be links.

        Raises UnsafeFolder; FileNotFoundError without `create`; and HostError when a component
        cannot be opened or made.
        """
        descriptor = open_directory(path, create=create, readable=readable, own_names=own_names)
        return cls(path, descriptor, readable=readable)

    def open_folder(self, name: str, *, create: bool) -> "PrivateFolder":
        """Open a directory in this one; `create`: make it if it is missing.

        Raises UnsafeFolder, and FileNotFoundError without `create`.
        """
        path = f"{self._path}/{_check_name(name)}"
        if create:
            self._make_folder(name)
        try:
            descriptor = os.open(name, _FOLDER, dir_fd=self._descriptor)
        except OSError as error:
            if error.errno in _NO_FOLDER:
                why = f"{path} is {'a symbolic link' if self._is_link(name) else 'no directory'}"
                raise UnsafeFolder(cannot_use(path), why) from error
            raise
        try:
            check_directory(path, os.fstat(descriptor), readable=self._readable)
        except BaseException:
            os.close(descriptor)
            raise
        return PrivateFolder(path, descriptor, readable=self._readable)

    def __enter__(self) -> "Self":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the descriptor."""
        os.close(self._descriptor)

    def _is_link(self, name: str) -> bool:
        status = os.stat(name, dir_fd=self._descriptor, follow_symlinks=False)
        return stat.S_ISLNK(status.st_mode)

    def _make_folder(self, name: str) -> None:
        try:
            os.mkdir(name, 0o700, dir_fd=self._descriptor)
        except FileExistsError:  # it is checked when it is opened
            pass

    def open_file(self, name: str, flags: int = os.O_RDONLY) -> int:
        """Return a descriptor of a regular file that only this user can reach.

        `flags` is an access mode only: O_TRUNC would act before the checks. The file may have lost
        its name, when another process removes or replaces it at this moment. Raises
        FileNotFoundError and UnsafeFolder.
        """
        if flags not in _ACCESS_MODES:
            raise ValueError(f"not an access mode: {flags:#o}")
        return self._open_checked(name, flags)

    def create_temporary(self) -> tuple[int, str]:
        """Return a descriptor, to read and write, of a new file, and its name: for `commit`."""
        name = _temporary_name()
        flags = _FILE | os.O_CREAT | os.O_EXCL | os.O_RDWR
        return os.open(name, flags, 0o600, dir_fd=self._descriptor), name

    def read_file(self, name: str, limit: int) -> bytes:
        """Return the first `limit` bytes of a file. Raises what `open_file` raises."""
        with open(self.open_file(name), "rb") as file:
            return file.read(limit)

    def write_file(self, name: str, content: bytes, *, durable: bool) -> None:
        """Write a file, or replace it, atomically; `durable` as for `commit`."""
        descriptor, temporary = self.create_temporary()
        try:
            with open(descriptor, "wb") as file:
                file.write(content)
            self.commit(temporary, name, durable=durable)
        except BaseException:
            self.remove(temporary)
            raise

    def commit(self, temporary_name: str, name: str, *, durable: bool) -> None:
        """Give a temporary file or directory its name; atomic. A file may have the name already.

        `durable`: the content is on the disk before, so that after a crash of the host the file is
        complete or not there. Without it a file of this name may have only a part of its content.
        """
        _check_name(name)
        if durable:
            self._sync(temporary_name)
        folder = self._descriptor
        os.rename(_check_name(temporary_name), name, src_dir_fd=folder, dst_dir_fd=folder)

    def listen(self, name: str) -> socket.socket:
        """Return a listening unix socket of this name. Raises OSError when there is such a file."""
        listener = socket.socket(socket.AF_UNIX)
        try:
            listener.bind(self._socket_path(name))
            listener.listen()
        except BaseException:
            listener.close()
            raise
        return listener

    def connect(self, name: str) -> socket.socket:
        """Return a connection to the listening socket of this name.

        Raises FileNotFoundError, and ConnectionRefusedError when nobody listens any more.
        """
        connection = socket.socket(socket.AF_UNIX)
        try:
            connection.connect(self._socket_path(name))
        except BaseException:
            connection.close()
            raise
        return connection

    def _socket_path(self, name: str) -> str:
        """Return a short path of a socket: with its directory's it might exceed 107 bytes."""
        return f"{self.path_by_descriptor}/{_check_name(name)}"

    def remove(self, name: str) -> None:
        """Remove a file; it is no error when there is none."""
        try:
            os.unlink(_check_name(name), dir_fd=self._descriptor)
        except FileNotFoundError:  # another process may have removed it
            pass

    def remove_tree(self, name: str) -> None:
        """Remove a directory and its content, as far as possible; links are not followed."""
        import shutil  # noqa: PLC0415 - a slow import, seldom needed

        shutil.rmtree(_check_name(name), ignore_errors=True, dir_fd=self._descriptor)

    def create_temporary_folder(self) -> str:
        """Make a directory, and return its name: for `commit`."""
        name = _temporary_name()
        os.mkdir(name, 0o700, dir_fd=self._descriptor)
        return name

    def is_writable(self) -> bool:
        """Return whether this user can make files: the file system may be read-only."""
        return os.access(".", os.W_OK, dir_fd=self._descriptor)

    @property
    def path_by_descriptor(self) -> str:
        """The path by which this process, and one that inherits the descriptor, reach this one."""
        return f"/proc/self/fd/{self._descriptor}"

    def fileno(self) -> int:
        """Return the descriptor of the directory."""
        return self._descriptor

    def use(self, name: str) -> None:
        """Set the times of a file or directory to now. A link is not followed."""
        os.utime(name, dir_fd=self._descriptor, follow_symlinks=False)

    def entries(self) -> list[tuple[str, os.stat_result]]:
        """Return the names for which `is_own_name` holds, each with the result of lstat(2)."""
        found = []
        for name in filter(is_own_name, os.listdir(self._descriptor)):
            try:
                status = os.stat(name, dir_fd=self._descriptor, follow_symlinks=False)
            except FileNotFoundError:  # removed since the directory was read
                continue
            found.append((name, status))
        return found

    def remove_stale_temporaries(self, age_seconds: float = TEMPORARY_MAX_AGE) -> None:
        """Remove temporary files not written to for longer than this: a crash has left them."""
        oldest = time.time() - age_seconds
        for name, status in self.entries():
            stale = status.st_mtime < oldest and not stat.S_ISDIR(status.st_mode)
            if stale and is_temporary(name):
                self.remove(name)

    def lock(self, name: str) -> FolderLock | None:
        """Lock the file `name`, made when it is missing; None when it is locked already.

        The result is for a `with`. Who holds the lock may remove the file. Raises UnsafeFolder.
        """
        while True:
            descriptor = self._open_checked(name, os.O_RDWR | os.O_CREAT)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                current = self._has_name(descriptor, name)
            except BlockingIOError:
                os.close(descriptor)
                return None
            except BaseException:
                os.close(descriptor)
                raise
            if current:
                return FolderLock(descriptor)
            # Its last holder has removed the file: another process may lock a new one by now.
            os.close(descriptor)

    def _open_checked(self, name: str, flags: int) -> int:
        what = f"cannot use the file {self._path}/{_check_name(name)}"
        try:
            descriptor = os.open(name, flags | _FILE, 0o600, dir_fd=self._descriptor)
        except OSError as error:
            if error.errno in _UNFIT:
                why = f"it cannot be opened as a private file: {reason(error)}"
                raise UnsafeFolder(what, why) from error
            raise
        try:
            why = _why_file_is_unsafe(os.fstat(descriptor))
            if why:
                raise UnsafeFolder(what, why)
        except BaseException:
            os.close(descriptor)
            raise
        return descriptor

    def _sync(self, name: str) -> None:
        descriptor = self.open_file(name)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def _has_name(self, descriptor: int, name: str) -> bool:
        """Return whether `name` is still a name of the open file."""
        try:
            named = os.stat(name, dir_fd=self._descriptor, follow_symlinks=False)
        except FileNotFoundError:
            return False
        return os.path.samestat(named, os.fstat(descriptor))


def _why_file_is_unsafe(status: os.stat_result) -> str:
    """Return the reason; empty for a file that only this user can reach."""
    mode = stat.S_IMODE(status.st_mode)
    if not stat.S_ISREG(status.st_mode):
        return "it is no regular file"
    if status.st_uid != os.geteuid():
        return f"it belongs to {name_user(status.st_uid)}"
    if mode & _OTHERS:
        return f"its mode is {mode:04o}, which lets other users use it"
    if status.st_nlink > 1:
        return "it has another name (a hard link)"
    return ""


def _temporary_name() -> str:
    return f".{os.urandom(8).hex()}.tmp"


def _check_name(name: str) -> str:
    if not is_own_name(name):
        raise ValueError(f"not a name for a file in a private directory: {name!r}")
    return name


def _consists_of(text: str, letters: str) -> bool:
    return bool(text) and not text.strip(letters)
