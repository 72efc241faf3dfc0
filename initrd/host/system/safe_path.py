"""Open a directory that only this user, or root, can change; walk its path by descriptors.

`open_directory` walks an absolute path from `/`, one component at a time. Each component is opened
relative to the descriptor of the one before, without following a link, and then checked by fstat(2)
of its own descriptor. So a check and the use that follows it are always of the same file, whatever
happens to the names meanwhile. A component is refused unless

- it belongs to this user (the effective user ID), to root, or to the owner of `/`, who decides
  about all programs anyway: in a user namespace without the real root that is user 65534.
  Root with the HOME of another user, as with sudo, is therefore refused;
- nobody else can write to it, or it has the sticky bit, as /tmp has; what such a directory contains
  has to belong to this user. The group bits of a mode also cover an access control list.

The last component belongs to this user, and nobody else can write to it, nor read it where that is
required. A directory with more permissions is refused and not repaired: other users may have placed
files there, or may still hold descriptors of it.

The last components, which programs make for themselves, may not be symbolic links. A link above
them is followed when it belongs to root, such as /home that leads to /var/home, or to this user,
such as ~/.cache that leads to another disk, and when nobody but root and its owner can write to the
directory that it is in. The components of its target are checked like all others. An own link gives
nobody else a choice: who can make it can also set the path. At most 40 links are followed.

The module does not protect from root, nor from other processes of this user.

Sources: open(2) with O_PATH, path_resolution(7); safe_path() of OpenSSH, for its StrictModes.
"""

import os
import stat
from contextlib import contextmanager, suppress

from initrd.errors import reason
from initrd.host.system.hosterror import HostError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

_ROOT = 0  # the user ID
_LINKS_MAX = 40  # the limit of the kernel
_WRITABLE_BY_OTHERS = stat.S_IWGRP | stat.S_IWOTH
_READABLE_BY_OTHERS = stat.S_IRGRP | stat.S_IXGRP | stat.S_IROTH | stat.S_IXOTH
# O_PATH needs no read permission, which a directory such as /home may lack. O_DIRECTORY: mount what
# an automount point stands for. The second is for links.
_COMPONENT = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NO_DIRECTORY = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC


class UnsafeFolder(HostError):
    """Other users could read or change a directory or a file, or it is of the wrong kind."""


def open_directory(path: str, *, create: bool, readable: bool, own_names: int) -> int:
    """Return a descriptor of the directory at the absolute `path`, by which it can be read.

    `create`: make missing components, for this user only. `readable`: other users may read the
    directory. `own_names`: how many components at the end may not be links. Raises UnsafeFolder;
    FileNotFoundError without `create`; and HostError when a component cannot be opened or made.
    """
    # After a link `..` is the parent of the link's target, seldom what was meant.
    if not path.startswith("/") or ".." in path.split("/"):
        raise UnsafeFolder(cannot_use(path), "the path is not absolute, or has .. in it")
    walk = _Walk(path, create=create, own_names=own_names)
    try:
        while walk.pending:
            walk.step()
        return walk.finish(readable=readable)
    except OSError as error:
        if isinstance(error, FileNotFoundError) and not create:
            error.filename = walk.place
            raise
        raise HostError(cannot_use(path), f"{walk.place}: {reason(error)}") from error
    finally:
        os.close(walk.descriptor)


@contextmanager
def new_directory(path: str, hint: str) -> "Iterator[int]":
    """Make a directory for this user only, for the `with`; yield a descriptor, without reading.

    It is made where others may make files, as in TMPDIR. All work in it has to be relative to the
    descriptor: the owner of the directory above can put another one in its place at any time. What
    this user has made in it is to be removed before the end. Raises HostError.
    """
    try:
        os.mkdir(path, stat.S_IRWXU)
    except OSError as error:
        raise HostError(f"cannot make {path}", reason(error), hint) from error
    try:
        descriptor = _open_new(path, hint)
        try:
            yield descriptor
        finally:
            os.close(descriptor)
    finally:
        with suppress(OSError):  # it is gone, or another file, which may not be empty, is there
            os.rmdir(path)


def _open_new(path: str, hint: str) -> int:
    """Return a descriptor of a directory that has just been made. Raises HostError."""
    try:
        descriptor = os.open(path, _COMPONENT)
    except OSError as error:
        raise HostError(cannot_use(path), reason(error), hint) from error
    try:
        check_directory(path, os.fstat(descriptor), readable=False)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def check_directory(path: str, status: os.stat_result, *, readable: bool) -> None:
    """Raise UnsafeFolder unless this is the state of a directory of this user alone."""
    if status.st_uid != os.geteuid():
        raise UnsafeFolder(cannot_use(path), f"it belongs to {name_user(status.st_uid)}")
    # The bit S_ISGID comes from the directory above and gives nobody any permission.
    mode = stat.S_IMODE(status.st_mode)
    kept = mode & ~(stat.S_ISGID | (_READABLE_BY_OTHERS if readable else 0))
    if kept != stat.S_IRWXU:
        why = f"its mode is {mode:04o}, not 0700"
        raise UnsafeFolder(cannot_use(path), why, "another one, or remove it")


def name_user(uid: int) -> str:
    """Return the name of a user for messages."""
    return "root" if uid == _ROOT else f"user {uid}"


def cannot_use(path: str) -> str:
    """Return the first part of a message about a directory."""
    return f"cannot use the directory {path}"


class _Walk:
    """Opens the components of a path one after the other; holds the last one's descriptor."""

    def __init__(self, path: str, *, create: bool, own_names: int) -> None:
        self.path = path
        self.own_names = own_names
        self.create = create
        self.pending = _split(path)  # the components to come, the next one last
        self.given = len(self.pending)  # how many of these are in `path`; others are of a link
        self.link_count = 0
        self.link = ""  # the path of the last link that is a component of `path`
        self.place = "/"  # the path of the component that was tried last, without links
        self.descriptor = os.open("/", _COMPONENT)
        self.status = os.fstat(self.descriptor)
        self.system = (_ROOT, self.status.st_uid)  # the owner of `/` is as powerful as root

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

    def finish(self, *, readable: bool) -> int:
        """Check the last component, and return a descriptor by which it can be read."""
        check_directory(self.path, self.status, readable=readable)
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
        if status.st_uid not in (*self.system, os.geteuid()):
            raise self._unsafe(f"{self.place} belongs to {name_user(status.st_uid)}")
        if self.status.st_mode & _WRITABLE_BY_OTHERS and status.st_uid != os.geteuid():
            why = (
                f"{self.place} belongs to {name_user(status.st_uid)}, in a directory for all users"
            )
            raise self._unsafe(why)
        writable = status.st_mode & _WRITABLE_BY_OTHERS and not status.st_mode & stat.S_ISVTX
        if writable and self.pending:  # `finish` checks the mode of the last one
            why = f"users other than {name_user(status.st_uid)} can write to {self.place}"
            raise self._unsafe(why, f"chmod go-w {self.place}")

    def _check_link(self, status: os.stat_result) -> None:
        self.link_count += 1
        if len(self.pending) < self.own_names:
            why = f"{self.place} is a symbolic link, where chrootvm makes directories"
            raise self._unsafe(why, "the path that the link leads to")
        if self.link_count > _LINKS_MAX:
            raise self._unsafe(f"there are more than {_LINKS_MAX} symbolic links in it")
        if status.st_uid not in (*self.system, os.geteuid()):
            raise self._unsafe(
                f"the symbolic link {self.place} belongs to {name_user(status.st_uid)}"
            )
        is_shared = bool(self.status.st_mode & _WRITABLE_BY_OTHERS)
        if is_shared or self.status.st_uid not in (*self.system, status.st_uid):
            owner = name_user(status.st_uid)
            why = f"users other than {owner} can write beside the symbolic link {self.place}"
            raise self._unsafe(why)

    def _unsafe(self, why: str, hint: str = "") -> UnsafeFolder:
        return UnsafeFolder(cannot_use(self.path), why, hint)


def _split(path: str) -> list[str]:
    """Return the components of a path, the first one last; that of an absolute path is `/`."""
    names = ["/"] if path.startswith("/") else []
    return [*names, *(name for name in path.split("/") if name not in ("", "."))][::-1]
