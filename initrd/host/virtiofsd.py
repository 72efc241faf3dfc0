"""virtiofsd, which shares a directory with the guest: both families of it, one abstraction.

The C one came with QEMU until version 8, the Rust one is a project of its own; which one a program
is, `initrd.host.dialect` finds out.
"""

import os

from initrd.host import openfiles, sandbox
from initrd.host.dialect import Dialect
from initrd.host.failure import HostError, reason
from initrd.host.process import Program
from initrd.host.syscalls import leave_mount_namespace, mount_read_only
from initrd.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable


class Directory(Record):
    """A directory of the host, and how the guest may use it."""

    path: str  # absolute
    writable: bool = False


def check(dialect: Dialect, directories: "Iterable[Directory]", *, root: bool) -> None:
    """Raise HostError unless this virtiofsd can share these. `root`: whether we are root."""
    shared = tuple(directories)
    if dialect.family == "rust" and openfiles.limit() < openfiles.LEAST:
        why = f"only {openfiles.limit()} files may be open (ulimit -Hn), which is too few for it"
        raise HostError(f"cannot start {dialect.program}", why, "a higher limit")
    for directory in shared:
        _check_access(directory)
        check_dialect(dialect, directory, root=root)
    if dialect.family == "c" and all(directory.writable for directory in shared):
        return  # a chroot is all that it takes
    why_not = sandbox.why_no_namespaces(root=root)
    if why_not:
        raise HostError(
            "cannot share a directory",
            f"{'' if root else 'run by an ordinary user, '}virtiofsd needs "
            f"{'mounts of its own' if root else 'a user namespace'}, and gets none ({why_not})",
            sandbox.advice(root=root),
        )


def _check_access(directory: Directory) -> None:
    what = f"cannot share {directory.path}"
    try:
        os.close(os.open(directory.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
    except OSError as error:
        raise HostError(what, reason(error)) from error
    if not os.access(directory.path, os.X_OK):
        raise HostError(what, "its files are not for this user (no search permission)")


def check_dialect(dialect: Dialect, directory: Directory, *, root: bool) -> None:
    """Raise HostError when a virtiofsd of this kind cannot share a directory in this way."""
    if dialect.family == "c" and not root:
        raise HostError(
            f"cannot share {directory.path}",
            f"{dialect.program} is the virtiofsd in C, which only root can use",
            "the one in Rust (package virtiofsd): --virtiofsd BIN",
        )
    if dialect.family == "rust" and not (directory.writable or dialect.readonly):
        raise HostError(
            f"cannot share {directory.path} read-only",
            f"{dialect.program} has no option --readonly; it is too old",
            "a newer one (1.11 has it), or --rw if the guest may write there",
        )


def command(dialect: Dialect, directory: Directory, listen: str, source: str) -> tuple[str, ...]:
    """Return the command that shares `directory`, at the path `source`.

    `listen` is the option that says where: `--fd=N` or `--socket-path=PATH`.
    """
    # Else the guest asks before each write whether the file has capabilities to be dropped, and a
    # file that is cut to nothing when it is opened keeps its setuid bit.
    killpriv = dialect.killpriv and directory.writable
    if dialect.family == "c":
        options = f"source={source},sandbox=chroot,announce_submounts,xattr,log_level=warn"
        options += ",killpriv_v2" if killpriv else ""
        return (dialect.program, "-f", listen, "-o", options)
    return (
        *(dialect.program, listen, f"--shared-dir={source}"),
        *("--announce-submounts", "--xattr", "--log-level=warn"),
        *(() if directory.writable else ("--readonly",)),
        *(("--killpriv-v2",) if killpriv else ()),
        *(("--inode-file-handles=prefer",) if dialect.handles and openfiles.need_handles() else ()),
        # It cannot pivot into what is its root already; and there is nothing to shut it out of.
        *(("--sandbox=none",) if source == "/" else ()),
    )


def serve(dialect: Dialect, directory: Directory, listener: int, top: int) -> Program:
    """Return what shares `directory` on the socket `listener`. `top` is open on the directory."""
    listen = f"--fd={listener}"
    if dialect.family == "rust":
        return Program(command(dialect, directory, listen, directory.path), (listener,))
    # By descriptor: `-o` has no escape for commas in the path; and a relative path would be looked
    # up in /, where this program goes before it looks.
    words = command(dialect, directory, listen, f"/proc/self/fd/{top}/.")
    if directory.writable:
        return Program(words, (listener, top))
    return Program(words, (listener, top), lambda: make_read_only(directory.path, top))


def make_read_only(path: str, top: int) -> None:
    """Have the directory `path` at descriptor `top`, read-only, for this process and its children.

    For a program without a read-only mode: whatever the guest asks it for, the host's kernel
    refuses to write. Raises HostError where the kernel does not let us.
    """
    try:
        leave_mount_namespace()
        directory = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        os.dup2(mount_read_only(directory), top)
    except OSError as error:
        raise HostError(
            f"cannot share {path} read-only",
            "this virtiofsd has no read-only mode, and a private read-only mount is refused "
            f"({error.filename}: {reason(error)})",
            "the virtiofsd in Rust (package virtiofsd): --virtiofsd BIN",
        ) from error
