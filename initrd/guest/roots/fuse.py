"""Merges the layers with a program of the root, for kernels without overlayfs.

The program is fuse-overlayfs or unionfs-fuse. It serves `/` from now until the machine is off, so
it needs a root directory of its own that nobody unmounts: a second view of the lower layer at
/run/initramfs/union, where systemd and sysvinit leave everything alone when they shut down. The
program and its libraries come from there, not from the tree that it serves.

Sources: fuse-overlayfs(1), unionfs(8); systemd's `docs/ROOT_STORAGE_DAEMONS.md` for the `@`;
`/etc/init.d/sendsigs` of sysvinit for `/run/sendsigs.omit.d`.
"""

import stat

from initrd.errors import reason
from initrd.guest._syscalls import MS_BIND, MS_NODEV, MS_NOEXEC, MS_NOSUID
from initrd.guest.execute import execute, timed
from initrd.guest.failure import BootError
from initrd.guest.log import Log
from initrd.guest.plan import MOVED, SYSROOT
from initrd.guest.roots.overlay import LAYER, LOWER, UPPER, WORK
from initrd.guest.roots.steps import Directory, Fifo, File
from initrd.guest.steps import Mount, Move, Node, Step
from initrd.guest.wait import wait_until
from initrd.inroot import resolve

TYPE_CHECKING = False
if TYPE_CHECKING:
    from initrd.guest.kernel import Kernel
    from initrd.options import BootOptions

DAEMON_ROOT = "/run/initramfs/union"  # the daemon's root directory
_PLACES = "/run"  # in it: where the daemon finds its layers and mounts what it makes of them
_MERGED = f"{_PLACES}/merged"
_LOG = f"{_PLACES}/log"  # what the daemon says: as much of it as fits there
NEEDED = ("/dev", "/proc", _PLACES)  # directories of the root that the daemon's view needs
OMIT_DIRECTORY = "/run/sendsigs.omit.d"
_PATH = ("/usr/bin", "/usr/sbin", "/bin", "/sbin", "/usr/local/bin", "/usr/local/sbin")
PROGRAMS = {
    "fuse-overlayfs": ("fuse-overlayfs",),
    "unionfs-fuse": ("unionfs-fuse", "unionfs"),
}
# allow_other: for all users, not for root alone; default_permissions: the kernel checks the modes
# of files, which nobody else would. suid, dev: as on any root.
_COMMON = "allow_other,default_permissions,suid,dev"


def mount_union(options: "BootOptions", kernel: "Kernel", log: Log) -> None:
    """Merge the layers at /rom and /overlay with `options.union`, at /sysroot.

    Raises BootError; when the target is missing, before the merged tree is moved anywhere.
    """
    check_root(options.union, kernel)
    path = find_program(options.union, kernel)
    execute(daemon_root_steps(), kernel, log)
    pid = start_daemon(daemon_command(options.union, path, acls=kernel.has_acls(LOWER)), kernel)
    timed(f"wait for {path}", lambda: _wait(pid, path, options.timeout, kernel), kernel, log)
    check_target(options, DAEMON_ROOT + _MERGED, kernel)
    execute(move_steps(), kernel, log)
    exempt_from_shutdown(pid, kernel, log)


def exempt_from_shutdown(pid: int, kernel: "Kernel", log: Log) -> None:
    """Have the daemon outlive everything else: its tree is looked at until the machine is off."""
    try:
        kernel.keep_serving(pid)
    except OSError as error:  # before Linux 5.6, or not allowed
        log.warn(f"shutting down may hang: a stopped union cannot be continued: {reason(error)}")
    execute(
        (Directory(OMIT_DIRECTORY), File(f"{OMIT_DIRECTORY}/initrd-union", f"{pid}\n")), kernel, log
    )


def check_root(union: str, kernel: "Kernel") -> None:
    """Raise BootError unless the root has the directories that the daemon's view is made with."""
    for path in NEEDED:
        if not kernel.is_directory(LOWER + path):
            raise BootError(
                f"cannot merge the layers with {union}",
                f"the root has no directory {path}",
                f"make the directory {path} in the root",
            )


def find_program(union: str, kernel: "Kernel") -> str:
    """Return the path of the program in the root. Raises BootError when it has none."""
    for path in (f"{directory}/{name}" for name in PROGRAMS[union] for directory in _PATH):
        if _is_program(_resolve(path, LOWER, kernel), LOWER, kernel):
            return path
    raise BootError(
        f"cannot merge the layers with {union}",
        f"the root has no {' or '.join(PROGRAMS[union])} in {', '.join(_PATH)}",
        f"install {union} in the root, or choose another with initrd.union=",
    )


def daemon_root_steps() -> tuple[Step, ...]:
    """Return how the daemon's view is made."""
    private = MS_NOSUID | MS_NODEV | MS_NOEXEC
    return (
        Mount(LOWER, DAEMON_ROOT, "", MS_BIND),  # the program and its libraries
        Mount("tmpfs", f"{DAEMON_ROOT}/dev", "tmpfs", MS_NOSUID | MS_NOEXEC, "mode=0755,size=64k"),
        Node(f"{DAEMON_ROOT}/dev/fuse", 0o600, 10, 229),
        Node(f"{DAEMON_ROOT}/dev/null", 0o666, 1, 3),
        # A console that nobody reads. unionfs-fuse 1.0 has a thread that passes its messages on,
        # one for every isatty(3) of anybody, and that may leave a lock behind for which all others
        # wait for ever. There is no /dev/log, so syslog(3) turns to the console, and that thread
        # waits here from the first message on; the others drop what it does not take.
        Fifo(f"{DAEMON_ROOT}/dev/console"),
        Mount("/proc", f"{DAEMON_ROOT}/proc", "", MS_BIND),  # files by /proc/self/fd
        # For root alone: whoever changes a layer below the merged tree breaks it. Small, because a
        # daemon may say much in its life.
        Mount("tmpfs", DAEMON_ROOT + _PLACES, "tmpfs", private, "mode=0700,size=64k"),
        Mount(LOWER, DAEMON_ROOT + _PLACES + LOWER, "", MS_BIND),
        Mount(LAYER, DAEMON_ROOT + _PLACES + LAYER, "", MS_BIND),
        Directory(DAEMON_ROOT + _MERGED),
    )


def daemon_command(union: str, path: str, *, acls: bool) -> list[bytes]:
    """Return the daemon's arguments. An `@` in front tells systemd to let it live to the end.

    `acls`: the lower layer keeps access control lists.
    """
    lower, upper, work = _PLACES + LOWER, _PLACES + UPPER, _PLACES + WORK
    if union == "fuse-overlayfs":
        options = f"lowerdir={lower},upperdir={upper},workdir={work},{_COMMON}"
        # Else every look for a list fails, and with it whatever an ordinary user opens.
        options += "" if acls else ",noacl"
        words = ["-f", "-o", options, _MERGED]
    else:
        # cow: copy what is changed to the upper layer, and remember there what is deleted. The
        # tree changes only through this mount, so that names and contents can be kept in memory.
        keep = "auto_cache,entry_timeout=3600,negative_timeout=3600"
        options = f"cow,use_ino,statfs_omit_ro,{keep},{_COMMON}"
        words = ["-f", "-o", options, f"{upper}=RW:{lower}=RO", _MERGED]
    return [word.encode() for word in (f"@{path}", *words)]


def start_daemon(argv: list[bytes], kernel: "Kernel") -> int:
    """Start the daemon in its root directory; return its pid. Raises BootError."""
    environ = {b"PATH": ":".join(_PATH).encode()}
    try:
        return kernel.start_daemon(DAEMON_ROOT, argv, environ, _LOG)
    except OSError as error:
        raise BootError(f"cannot start {argv[0][1:].decode()}", reason(error)) from error


def move_steps() -> tuple[Step, ...]:
    """Return how the merged tree becomes the root, once the daemon serves it."""
    return Directory(SYSROOT), Move(DAEMON_ROOT + _MERGED, SYSROOT)


def check_target(options: "BootOptions", root: str, kernel: "Kernel") -> None:
    """Raise BootError unless the target is a program in `root`, as far as it is there already.

    What is mounted later, the API mounts and the extra shares, cannot be looked at.
    """
    what = f"cannot execute the target {options.init}"
    try:
        path = _resolve(options.init, root, kernel)
    except OSError as error:
        raise BootError(what, reason(error)) from error
    later = (*MOVED, *(share.path for share in options.shares if share.path))
    if any(f"{path}/".startswith(f"{place}/") for place in later):
        return
    mode = kernel.file_mode(root + path)
    if not mode:
        raise BootError(what, "there is no such file in the root", "set init=PATH to a program")
    if not stat.S_ISREG(mode):
        raise BootError(what, "it is no file", "set init=PATH to a program")
    if not mode & 0o111:
        raise BootError(what, "it is not executable", f"chmod +x {options.init} in the root")


def _resolve(path: str, root: str, kernel: "Kernel") -> str:
    """Return where `path` leads for a process whose root directory is `root`. Raises OSError."""
    return resolve(path, lambda link: kernel.read_link(root + link))


def _is_program(path: str, root: str, kernel: "Kernel") -> bool:
    mode = kernel.file_mode(root + path)
    return stat.S_ISREG(mode) and bool(mode & 0o111)


def _wait(pid: int, path: str, timeout: float, kernel: "Kernel") -> None:
    """Wait until the daemon has mounted its tree and answers for it."""

    def is_mounted() -> bool:
        status = kernel.wait_status(pid)
        if status is not None:
            raise BootError(f"cannot merge the layers with {path}", _last_words(status, kernel))
        return f" {DAEMON_ROOT}{_MERGED} " in kernel.read("/proc/self/mountinfo")

    if not wait_until(is_mounted, timeout, kernel):
        raise BootError(
            f"cannot merge the layers with {path}",
            f"it has mounted nothing after {timeout:g} s",
            "give it more time with initrd.timeout=",
        )
    kernel.list_directory(DAEMON_ROOT + _MERGED)


def _last_words(status: int, kernel: "Kernel") -> str:
    ended = f"it exited with status {status}" if status >= 0 else f"it died of signal {-status}"
    said = kernel.read(DAEMON_ROOT + _LOG).strip().splitlines()[-3:]
    return f"{ended}; it said: {' / '.join(said)}" if said else f"{ended} and said nothing"
