"""virtiofsd: which of its two families a program is, and its command for a share.

The program in C came with QEMU up to version 7; that in Rust is a separate project. They are
distinguished by the output of `--help`, never by the path. The output is kept in the cache together
with the state of the program's file: running it takes a tenth of the time until QEMU starts.
"""

import os

from initrd.errors import reason
from initrd.host.system.cached import HELP_TEXTS, Cache, CacheFolder, read_answer
from initrd.host.system.hosterror import HostError
from initrd.host.system.printable import is_utf8
from initrd.host.system.process import Program, capture_output
from initrd.host.system.syscalls import mount_read_only, unshare_mount_namespace
from initrd.host.virtiofsd import sandbox
from initrd.options import Share
from initrd.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

HELP_TEXTS_KEPT = 4  # in the cache
UNPROTECTED = "--unprotected-read-only"  # the option of chrootvm


class Virtiofsd(Record):
    """A virtiofsd program, its features, and how a launch uses it."""

    program: str
    family: str  # `c` or `rust`
    readonly: bool = False  # it has a read-only mode
    killpriv: bool = False  # it can drop the privileges of files that are written to
    handles: bool = False  # it can keep file handles in place of open files
    announces: bool = False  # it announces submounts unless it is told not to
    translates: bool = False  # it can show the files of one user as those of another
    lower: str = ""  # tag of the share whose submounts must not be announced; empty: none
    sandbox: str = sandbox.NAMESPACE  # of the one in Rust
    obstacle: str = ""  # why it can have no namespaces; empty: it can
    unprotected: bool = False  # where the host cannot keep a share read-only, share it nevertheless

    def can_protect(self, share: Share) -> bool:
        """Return whether a share is read-only on the host, if it is to be."""
        return share.writable or (self.readonly if self.family == "rust" else not self.obstacle)


# --- which virtiofsd a program is ----------------------------------------------------------------


def help_text(program: str) -> bytes:
    """Return the output of `--help`. Raises HostError when the program cannot be run."""
    return capture_output(program, "--help")


def identify(
    program: str, cache: Cache, help_of: "Callable[[str], bytes]" = help_text
) -> Virtiofsd:
    """Return which virtiofsd a program is, by the output of `--help`, which the cache may hold.

    Raises HostError when it is none. Such an output is not kept: a missing library may be the
    reason.
    """

    def ask(program: str) -> bytes:
        text = help_of(program)
        parse_help(program, text)
        return text

    folder = CacheFolder(cache, HELP_TEXTS, HELP_TEXTS_KEPT)
    return parse_help(program, read_answer(folder, program, ask))


def query(program: str) -> Virtiofsd:
    """Return which virtiofsd a program is, without the cache. Raises HostError."""
    return parse_help(program, help_text(program))


def parse_help(program: str, text: bytes) -> Virtiofsd:
    """Return the virtiofsd whose `--help` prints `text`. Raises HostError for another program."""
    output = text.decode(errors="replace")
    if "--shared-dir" in output:
        return Virtiofsd(
            program,
            "rust",
            readonly="--readonly" in output,
            killpriv="--killpriv-v2" in output,
            handles="--inode-file-handles" in output,
            announces="--no-announce-submounts" in output,
            translates="--translate-uid" in output,
        )
    if "-o source=" in output:
        return Virtiofsd(program, "c", killpriv="killpriv_v2" in output)
    raise HostError(
        f"{program} is no virtiofsd",
        f"it answers --help with {output.strip()[:60]!r}",
        "the program of Debian's packages virtiofsd or qemu-system-common: --virtiofsd BIN",
    )


# --- whether it can serve a share ----------------------------------------------------------------


def confine(virtiofsd: Virtiofsd, *, root: bool, unprotected: bool) -> Virtiofsd:
    """Return the virtiofsd with the sandbox that it can have here. `root`: run by root."""
    obstacle = sandbox.find_namespace_problem(root=root)
    mode = sandbox.choose_sandbox(obstacle, root=root)
    return virtiofsd.replace(sandbox=mode, obstacle=obstacle, unprotected=unprotected)


def check(virtiofsd: Virtiofsd, shares: "Iterable[Share]", *, root: bool) -> None:
    """Raise HostError unless this virtiofsd can serve these shares. `root`: run by root."""
    limit = sandbox.open_file_limit()
    if virtiofsd.family == "rust" and limit < sandbox.MIN_OPEN_FILES:
        why = f"only {limit} files may be open (ulimit -Hn), which is too few for it"
        raise HostError(f"cannot start {virtiofsd.program}", why, "a higher limit")
    for share in shares:
        _check_access(share)
        check_share(virtiofsd, share, root=root)


def _check_access(share: Share) -> None:
    failure = f"cannot share {share.source}"
    try:
        os.close(os.open(share.source, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
    except OSError as error:
        raise HostError(failure, reason(error)) from error
    if not os.access(share.source, os.X_OK):
        raise HostError(failure, "its files are not for this user (no search permission)")


def check_share(virtiofsd: Virtiofsd, share: Share, *, root: bool) -> None:
    """Raise HostError when this virtiofsd lacks a feature that the share needs."""
    if virtiofsd.family == "c" and not root:
        raise HostError(
            f"cannot share {share.source}",
            f"{virtiofsd.program} is the virtiofsd in C, which only root can use",
            "the one in Rust (package virtiofsd): --virtiofsd BIN",
        )
    if virtiofsd.family == "rust" and not is_utf8(share.source):
        # A descriptor does not help: virtiofsd looks up the path of the directory that it is of.
        raise HostError(
            f"cannot share {share.source}",
            f"its path is not UTF-8, and {virtiofsd.program} is the virtiofsd in Rust, "
            "which takes only such paths",
            "another path; or, as root, the virtiofsd in C: --virtiofsd BIN",
        )
    if virtiofsd.can_protect(share) or virtiofsd.unprotected:
        return
    if virtiofsd.family == "rust":
        why = f"{virtiofsd.program} has no option --readonly; it is too old"
        hint = "a newer one (1.11 has it)"
    else:
        why = (
            f"{virtiofsd.program} is the virtiofsd in C, which needs a mount of its own for that, "
            f"and gets none ({virtiofsd.obstacle})"
        )
        hint = f"the one in Rust (--virtiofsd BIN), or {sandbox.namespace_hint(root=root)}"
    hint = f"{hint}; or {UNPROTECTED}, if the guest's root may write there"
    raise HostError(f"cannot share {share.source} read-only", why, hint)


# --- its command ---------------------------------------------------------------------------------


def command(virtiofsd: Virtiofsd, share: Share, listen: str, source: str) -> tuple[str, ...]:
    """Return the command that serves `share`, whose directory virtiofsd finds at `source`.

    `listen` is the option for the socket: `--fd=N` or `--socket-path=PATH`.
    """
    # Without killpriv the guest requests a file's capabilities before each write to it, and a
    # file that is truncated when it is opened keeps its setuid bit.
    killpriv = virtiofsd.killpriv and share.writable
    is_lower = share.tag == virtiofsd.lower
    if virtiofsd.family == "c":
        announce = "" if is_lower else "announce_submounts,"
        options = f"source={source},sandbox=chroot,{announce}xattr,log_level=warn"
        options += ",killpriv_v2" if killpriv else ""
        return (virtiofsd.program, "-f", listen, "-o", options)
    handles = virtiofsd.handles and sandbox.needs_file_handles()
    return (
        *(virtiofsd.program, listen, f"--shared-dir={source}"),
        *(() if is_lower else ("--announce-submounts",)),
        *(("--no-announce-submounts",) if is_lower and virtiofsd.announces else ()),
        *("--xattr", "--log-level=warn"),
        *(() if share.writable or not virtiofsd.readonly else ("--readonly",)),
        *(("--killpriv-v2",) if killpriv else ()),
        *(("--inode-file-handles=prefer",) if handles else ()),
        *_sandbox_words(virtiofsd, source),
    )


def _sandbox_words(virtiofsd: Virtiofsd, source: str) -> tuple[str, ...]:
    """Return the words for the sandbox of the virtiofsd in Rust."""
    # virtiofsd cannot pivot into its own root, and no file is outside of the shared directory.
    mode = sandbox.NONE if source == "/" else virtiofsd.sandbox
    if mode == sandbox.NAMESPACE:
        return ()
    user, group = os.geteuid(), os.getegid()
    if not user or not virtiofsd.obstacle or not virtiofsd.translates:
        return (f"--sandbox={mode}",)
    # As a user namespace does: files of this user are those of the guest's root.
    maps = f"--translate-uid=map:0:{user}:1", f"--translate-gid=map:0:{group}:1"
    return (f"--sandbox={mode}", *maps)


def make_program(virtiofsd: Virtiofsd, share: Share, listener: int, directory: int) -> Program:
    """Return the program that serves `share` on the socket `listener`.

    `directory` is a descriptor of the share's directory.
    """
    listen = f"--fd={listener}"
    if virtiofsd.family == "rust":
        return Program(command(virtiofsd, share, listen, share.source), (listener,))
    # By descriptor: `-o` has no escape for commas in the path. virtiofsd changes to / before it
    # looks up a relative path.
    words = command(virtiofsd, share, listen, f"/proc/self/fd/{directory}/.")
    if not needs_read_only_mount(virtiofsd, share):
        return Program(words, (listener, directory))
    return Program(words, (listener, directory), lambda: make_read_only(share.source, directory))


def needs_read_only_mount(virtiofsd: Virtiofsd, share: Share) -> bool:
    """Return whether virtiofsd gets a read-only mount: that in C, which has no read-only mode."""
    is_forgone = virtiofsd.unprotected and not virtiofsd.can_protect(share)
    return virtiofsd.family == "c" and not share.writable and not is_forgone


def make_read_only(path: str, descriptor: int) -> None:
    """Replace `descriptor` by a read-only mount of `path`, for this process and its children.

    For the virtiofsd in C, which has no read-only mode: the host's kernel refuses every write.
    Raises HostError where the kernel does not allow such a mount.
    """
    try:
        unshare_mount_namespace()
        directory = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        os.dup2(mount_read_only(directory), descriptor)
    except OSError as error:
        raise HostError(
            f"cannot share {path} read-only",
            "this virtiofsd has no read-only mode, and a private read-only mount is refused "
            f"({error.filename}: {reason(error)})",
            "the virtiofsd in Rust (package virtiofsd): --virtiofsd BIN",
        ) from error
