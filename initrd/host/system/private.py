"""A directory of files that only this user can reach; all work in it is by descriptors.

`PrivateFolder.open` walks an absolute path from `/`, one component at a time. Each component is
opened relative to the descriptor of the one before, without following a link, and then checked by
fstat(2) of its own descriptor. So a check and the use that follows it are always of the same file,
whatever happens to the names meanwhile. A component is refused unless

- it belongs to this user (the effective user ID) or to root. Root with the HOME of another user, as
  with sudo, is therefore refused;
- nobody else can write to it, or it has the sticky bit, as /tmp has; what such a directory contains
  has to belong to this user. The group bits of a mode also cover an access control list.

The last component belongs to this user and has the mode 0700. One with more permissions is refused
and not repaired: other users may have placed files there, or may still hold descriptors of it.

The last two components may not be symbolic links: they are names that programs make for themselves.
A link above them is followed when it belongs to root, such as /home that leads to /var/home, or to
this user, such as ~/.cache that leads to another disk, and when nobody but root and its owner can
write to the directory that it is in. The components of its target are checked like all others. An
own link gives nobody else a choice: who can make it can also set the path. At most 40 links are
followed.

The module reads and changes only names that it could have made itself: `is_own_name`. It does not
protect from root, nor from other processes of this user.

Sources: open(2) with O_PATH, path_resolution(7), flock(2), rename(2).
"""

import errno
import fcntl
import os
import socket
import stat
import time

from initrd.errors import HostError, reason

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Self

_ROOT = 0  # the user ID
_LINKS_MAX = 40  # the limit of the kernel
_LINK_FREE = 2  # number of components at the end of a path that may not be links
_OTHERS = stat.S_IRWXG | stat.S_IRWXO
_WRITABLE_BY_OTHERS = stat.S_IWGRP | stat.S_IWOTH
# O_PATH needs no read permission, which a directory such as /home may lack. O_DIRECTORY: mount what
# an automount point stands for. The second is for links.
_COMPONENT = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NO_DIRECTORY = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
# O_NONBLOCK: open a named pipe without waiting. O_NOCTTY: a terminal stays a mere file.
_FILE = os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY
_ACCESS_MODES = (os.O_RDONLY, os.O_WRONLY, os.O_RDWR)
# Errors of open(2) that tell what kind of file it is: a link, a directory, a pipe without a reader
# or a socket, a device without a driver, a file that this user may not open.
_UNFIT = (errno.ELOOP, errno.EISDIR, errno.ENXIO, errno.ENODEV, errno.EACCES)
_HEX_DIGITS = "0123456789abcdef"
_LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789"


class UnsafeFolder(HostError):
    """Other users could read or change a directory or a file, or it is of the wrong kind."""


def is_own_name(name: str) -> bool:
    r"""Return whether a file of this name can be one of a private directory.

    The names are `[a-z0-9-]+(\.[a-z0-9]+)?` and those of temporary files, `.[0-9a-f]{16}\.tmp`.
    """
    stem, dot, suffix = name.partition(".")
    plain = _consists_of(stem, _LETTERS + "-") and (not dot or _consists_of(suffix, _LETTERS))
    return plain or _is_temporary(name)


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

    def __init__(self, path: str, descriptor: int) -> None:
        """Take the descriptor of a directory that has been checked; `path` is for messages."""
        self._path = path
        self._descriptor = descriptor

    @classmethod
    def open(cls, path: str, *, create: bool) -> "Self":
        """Open the directory at the absolute `path`; `create`: make missing components.

        Raises UnsafeFolder; FileNotFoundError without `create`; and HostError when a component
        cannot be opened or made.
        """
        return cls(path, _open_folder(path, create=create))

    def __enter__(self) -> "Self":
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._descriptor)

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
        name = f".{os.urandom(8).hex()}.tmp"
        flags = _FILE | os.O_CREAT | os.O_EXCL | os.O_RDWR
        return os.open(name, flags, 0o600, dir_fd=self._descriptor), name

    def commit(self, temporary_name: str, name: str, *, durable: bool) -> None:
        """Give a temporary file its name, in place of a file that may have it; atomic.

        `durable`: the file and its name are on the disk when this returns. Without it a crash of
        the host may leave a file of this name with only a part of its content.
        """
        _check_name(name)
        if durable:
            self._sync(temporary_name)
        folder = self._descriptor
        os.rename(_check_name(temporary_name), name, src_dir_fd=folder, dst_dir_fd=folder)
        if durable:
            os.fsync(folder)

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
        return f"/proc/self/fd/{self._descriptor}/{_check_name(name)}"

    def remove(self, name: str) -> None:
        """Remove a file; it is no error when there is none."""
        try:
            os.unlink(_check_name(name), dir_fd=self._descriptor)
        except FileNotFoundError:  # another process may have removed it
            pass

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

    def remove_stale_temporaries(self, age_seconds: float) -> None:
        """Remove temporary files not written to for longer than this: a crash has left them."""
        oldest = time.time() - age_seconds
        for name, status in self.entries():
            stale = status.st_mtime < oldest and not stat.S_ISDIR(status.st_mode)
            if stale and _is_temporary(name):
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


class _Walk:
    """Opens the components of a path one after the other; holds the last one's descriptor."""

    def __init__(self, path: str, *, create: bool) -> None:
        self.path = path
        self.create = create
        self.pending = _split(path)  # the components to come, the next one last
        self.given = len(self.pending)  # how many of these are in `path`; others are of a link
        self.link_count = 0
        self.link = ""  # the path of the last link that is a component of `path`
        self.place = "/"  # the path of the component that was tried last, without links
        self.descriptor = os.open("/", _COMPONENT)
        self.status = os.fstat(self.descriptor)

    def step(self) -> None:
        """Open and check the next component. Raises OSError and UnsafeFolder."""
        name = self.pending.pop()
        of_link = len(self.pending) >= self.given
        self.given = min(self.given, len(self.pending))
        folder, self.place = self.place, os.path.join(self.place, name)
        entry = self._open(name, of_link=of_link)
        try:
            status = os.fstat(entry)
            if stat.S_ISLNK(status.st_mode):
                self.link = self.link if of_link else self.place
                self._check_link(status)
                self.pending += _split(os.readlink("", dir_fd=entry))
                self.place = folder
            else:
                self._check_component(status)
                self.status = status
                entry, self.descriptor = self.descriptor, entry
        finally:
            os.close(entry)

    def finish(self) -> int:
        """Check the last component, and return a descriptor by which it can be read."""
        if self.status.st_uid != os.geteuid():
            raise self._unsafe(f"it belongs to {_user(self.status.st_uid)}")
        mode = stat.S_IMODE(self.status.st_mode)
        # The bit S_ISGID comes from the directory above and gives nobody any permission.
        if mode & ~stat.S_ISGID != stat.S_IRWXU:
            raise self._unsafe(f"its mode is {mode:04o}, not 0700", "another one, or remove it")
        return os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=self.descriptor)

    def _open(self, name: str, *, of_link: bool) -> int:
        try:
            return os.open(name, _COMPONENT, dir_fd=self.descriptor)
        except NotADirectoryError:
            return os.open(name, _NO_DIRECTORY, dir_fd=self.descriptor)
        except FileNotFoundError:
            if of_link:
                why = f"the symbolic link {self.link} leads to {self.place}, which does not exist"
                raise self._unsafe(why) from None
            if not self.create:
                raise
        try:
            os.mkdir(name, 0o700, dir_fd=self.descriptor)
        except FileExistsError:  # another process was faster; its directory is checked like others
            pass
        return os.open(name, _COMPONENT, dir_fd=self.descriptor)

    def _check_component(self, status: os.stat_result) -> None:
        if not stat.S_ISDIR(status.st_mode):
            raise self._unsafe(f"{self.place} is no directory")
        if status.st_uid not in (_ROOT, os.geteuid()):
            raise self._unsafe(f"{self.place} belongs to {_user(status.st_uid)}")
        if self.status.st_mode & _WRITABLE_BY_OTHERS and status.st_uid != os.geteuid():
            why = f"{self.place} belongs to {_user(status.st_uid)}, in a directory for all users"
            raise self._unsafe(why)
        writable = status.st_mode & _WRITABLE_BY_OTHERS and not status.st_mode & stat.S_ISVTX
        if writable and self.pending:  # `finish` checks the mode of the last one
            why = f"users other than {_user(status.st_uid)} can write to {self.place}"
            raise self._unsafe(why, f"chmod go-w {self.place}")

    def _check_link(self, status: os.stat_result) -> None:
        self.link_count += 1
        if len(self.pending) < _LINK_FREE:
            why = f"{self.place} is a symbolic link, among the last {_LINK_FREE} names of the path"
            raise self._unsafe(why, "the path that the link leads to")
        if self.link_count > _LINKS_MAX:
            raise self._unsafe(f"there are more than {_LINKS_MAX} symbolic links in it")
        if status.st_uid not in (_ROOT, os.geteuid()):
            raise self._unsafe(f"the symbolic link {self.place} belongs to {_user(status.st_uid)}")
        folder = self.status
        if folder.st_uid not in (_ROOT, status.st_uid) or folder.st_mode & _WRITABLE_BY_OTHERS:
            owner = _user(status.st_uid)
            why = f"users other than {owner} can write beside the symbolic link {self.place}"
            raise self._unsafe(why)

    def _unsafe(self, why: str, hint: str = "") -> UnsafeFolder:
        return UnsafeFolder(_cannot_use(self.path), why, hint)


def _open_folder(path: str, *, create: bool) -> int:
    # After a link `..` is the parent of the link's target, seldom what was meant.
    if not path.startswith("/") or ".." in path.split("/"):
        raise UnsafeFolder(_cannot_use(path), "the path is not absolute, or has .. in it")
    walk = _Walk(path, create=create)
    try:
        while walk.pending:
            walk.step()
        return walk.finish()
    except OSError as error:
        if isinstance(error, FileNotFoundError) and not create:
            error.filename = walk.place
            raise
        raise HostError(_cannot_use(path), f"{walk.place}: {reason(error)}") from error
    finally:
        os.close(walk.descriptor)


def _split(path: str) -> list[str]:
    """Return the components of a path, the first one last; that of an absolute path is `/`."""
    names = ["/"] if path.startswith("/") else []
    return [*names, *(name for name in path.split("/") if name not in ("", "."))][::-1]


def _why_file_is_unsafe(status: os.stat_result) -> str:
    """Return the reason; empty for a file that only this user can reach."""
    mode = stat.S_IMODE(status.st_mode)
    if not stat.S_ISREG(status.st_mode):
        return "it is no regular file"
    if status.st_uid != os.geteuid():
        return f"it belongs to {_user(status.st_uid)}"
    if mode & _OTHERS:
        return f"its mode is {mode:04o}, which lets other users use it"
    if status.st_nlink > 1:
        return "it has another name (a hard link)"
    return ""


def _check_name(name: str) -> str:
    if not is_own_name(name):
        raise ValueError(f"not a name for a file in a private directory: {name!r}")
    return name


def _is_temporary(name: str) -> bool:
    digits = name[1:-4]
    return name == f".{digits}.tmp" and len(digits) == 16 and _consists_of(digits, _HEX_DIGITS)


def _consists_of(text: str, letters: str) -> bool:
    return bool(text) and not text.strip(letters)


def _user(uid: int) -> str:
    return "root" if uid == _ROOT else f"user {uid}"


def _cannot_use(path: str) -> str:
    return f"cannot use the directory {path}"
