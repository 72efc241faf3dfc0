"""virtiofsd, which shares a directory with the guest: both families of it, one abstraction.

The C one came with QEMU until version 8, the Rust one is a project of its own; which one a program
is, `initrd.host.virtiofsd.program` finds out.
"""

import os

from initrd.errors import HostError, reason
from initrd.host.system.files import CacheEntry, open_cached
from initrd.host.system.process import Program
from initrd.host.system.syscalls import leave_mount_namespace, mount_read_only
from initrd.host.virtiofsd import sandbox
from initrd.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

ANSWERS_KEPT = 4  # answers


class Virtiofsd(Record):
    """A virtiofsd program, and how it wants to be spoken to."""

    program: str
    family: str  # `c` or `rust`
    readonly: bool = False  # it has a read-only mode of its own
    killpriv: bool = False  # it can drop the privileges of files that are written to
    handles: bool = False  # it can note what a file is, where others have it open all the time


def help_text(program: str) -> bytes:
    """Return what a program answers to `--help`. Raises HostError when it cannot be run."""
    from initrd.host.system.process import capture_output  # noqa: PLC0415 - long, and a known one needs none

    return capture_output(program, "--help")


def identify(program: str, cache: str, help_of: "Callable[[str], bytes]" = help_text) -> Virtiofsd:
    """Return what a virtiofsd is, as it says or has said before. Raises HostError when it is none.

    What is not understood is not kept: it may be for a library that is missing. A script may start
    another program tomorrow without changing: it is asked each time.
    """

    def answer() -> CacheEntry:
        text = help_of(program)
        parse_help(program, text)
        return CacheEntry(text, (program,))

    if _is_script(program):
        return parse_help(program, help_of(program))
    folder = os.path.join(cache, "virtiofsd")
    with open(open_cached(folder, program, answer, kept=ANSWERS_KEPT), "rb") as file:
        file.seek(0)  # one that the cache does not keep was just written
        return parse_help(program, file.read())


def ask(program: str) -> Virtiofsd:
    """Ask a virtiofsd what it is. Raises HostError when it is none that we know."""
    return parse_help(program, help_text(program))


def parse_help(program: str, text: bytes) -> Virtiofsd:
    """Return what a program is that answers `--help` like this. Raises HostError."""
    answer = text.decode(errors="replace")
    if "--shared-dir" in answer:
        return Virtiofsd(
            program,
            "rust",
            readonly="--readonly" in answer,
            killpriv="--killpriv-v2" in answer,
            handles="--inode-file-handles" in answer,
        )
    if "-o source=" in answer:
        return Virtiofsd(program, "c", killpriv="killpriv_v2" in answer)
    raise HostError(
        f"{program} is no virtiofsd",
        f"it answers --help with {answer.strip()[:60]!r}",
        "the program of Debian's packages virtiofsd or qemu-system-common: --virtiofsd BIN",
    )


def _is_script(program: str) -> bool:
    try:
        with open(program, "rb") as file:
            return file.read(2) == b"#!"
    except OSError:  # it may be executed and not read: then it is no script
        return False


class Directory(Record):
    """A directory of the host, and how the guest may use it."""

    path: str  # absolute
    writable: bool = False


def check(dialect: Virtiofsd, directories: "Iterable[Directory]", *, root: bool) -> None:
    """Raise HostError unless this virtiofsd can share these. `root`: whether we are root."""
    shared = tuple(directories)
    limit = sandbox.open_file_limit()
    if dialect.family == "rust" and limit < sandbox.LEAST_FILES:
        why = f"only {limit} files may be open (ulimit -Hn), which is too few for it"
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
            sandbox.namespace_advice(root=root),
        )


def _check_access(directory: Directory) -> None:
    what = f"cannot share {directory.path}"
    try:
        os.close(os.open(directory.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
    except OSError as error:
        raise HostError(what, reason(error)) from error
    if not os.access(directory.path, os.X_OK):
        raise HostError(what, "its files are not for this user (no search permission)")


def check_dialect(dialect: Virtiofsd, directory: Directory, *, root: bool) -> None:
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


def command(dialect: Virtiofsd, directory: Directory, listen: str, source: str) -> tuple[str, ...]:
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
        *(
            ("--inode-file-handles=prefer",)
            if dialect.handles and sandbox.need_file_handles()
            else ()
        ),
        # It cannot pivot into what is its root already; and there is nothing to shut it out of.
        *(("--sandbox=none",) if source == "/" else ()),
    )


def serve(dialect: Virtiofsd, directory: Directory, listener: int, top: int) -> Program:
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
