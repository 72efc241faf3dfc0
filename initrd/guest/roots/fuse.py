"""Merge the layers of an overlay root with a FUSE program, for kernels without overlayfs.

The program is fuse-overlayfs or unionfs-fuse, from the root itself. It runs as a daemon and serves
`/` until the machine is off, so it needs a root directory that is never unmounted: a second mount
of the lower layer at /run/initramfs/union. systemd and sysvinit unmount nothing below
/run/initramfs when they shut down. The daemon loads its libraries from there, not from the tree
that it serves.

Sources: fuse-overlayfs(1), unionfs(8); systemd's `docs/ROOT_STORAGE_DAEMONS.md` for the `@`;
`/etc/init.d/sendsigs` of sysvinit for `/run/sendsigs.omit.d`.
"""

import stat

from initrd.errors import reason
from initrd.guest._syscalls import MS_BIND, MS_NODEV, MS_NOEXEC, MS_NOSUID
from initrd.guest.execute import execute, timed
from initrd.guest.failure import BootError
from initrd.guest.log import Log
from initrd.guest.plan import API_MOUNT_POINTS, SYSROOT
from initrd.guest.roots.overlay import LAYER, LOWER, UPPER, WORK
from initrd.guest.roots.steps import CreateDirectory, CreateFifo, WriteFile
from initrd.guest.steps import Mount, Move, Node, Step
from initrd.guest.wait import wait_until
from initrd.inroot import resolve

TYPE_CHECKING = False
if TYPE_CHECKING:
    from initrd.guest.kernel import Kernel
    from initrd.options import BootOptions

DAEMON_ROOT = "/run/initramfs/union"  # the daemon's root directory
# Paths in it: the directory with the layers, the mount point of the merged tree, and the output of
# the daemon, as far as it fits on that tmpfs.
_RUN = "/run"
_MERGED = f"{_RUN}/merged"
_LOG = f"{_RUN}/log"
MOUNT_POINTS = ("/dev", "/proc", _RUN)  # directories that the root must have, for DAEMON_ROOT
OMIT_DIRECTORY = "/run/sendsigs.omit.d"  # sysvinit kills no process whose pid is in a file here
_PATH = ("/usr/bin", "/usr/sbin", "/bin", "/sbin", "/usr/local/bin", "/usr/local/sbin")
PROGRAMS = {
    "fuse-overlayfs": ("fuse-overlayfs",),
    "unionfs-fuse": ("unionfs-fuse", "unionfs"),
}
# allow_other: all users may use the mount, not root alone. default_permissions: the kernel checks
# the modes of files; the programs do not. suid, dev: as on any root.
_COMMON = "allow_other,default_permissions,suid,dev"


def mount_union(options: "BootOptions", kernel: "Kernel", log: Log) -> None:
    """Merge the layers at /rom and /overlay with the program `options.union`, at /sysroot.

    Raises BootError; for a missing target, before the merged tree is moved.
    """
    check_root(options.union, kernel)
    path = find_program(options.union, kernel)
    execute(daemon_root_steps(), kernel, log)
    pid = start_daemon(daemon_command(options.union, path, acls=kernel.has_acls(LOWER)), kernel)
    timed(
        f"wait for {path}", lambda: _wait_for_mount(pid, path, options.timeout, kernel), kernel, log
    )
    check_target(options, DAEMON_ROOT + _MERGED, kernel)
    execute(move_steps(), kernel, log)
    exempt_from_shutdown(pid, kernel, log)


def exempt_from_shutdown(pid: int, kernel: "Kernel", log: Log) -> None:
    """Keep the shutdown of the target from stopping or killing the daemon, which serves `/`."""
    try:
        kernel.keep_serving(pid)
    except OSError as error:  # before Linux 5.6, or not allowed
        log.warn(f"shutting down may hang: a stopped union cannot be continued: {reason(error)}")
    execute(
        (CreateDirectory(OMIT_DIRECTORY), WriteFile(f"{OMIT_DIRECTORY}/initrd-union", f"{pid}\n")),
        kernel,
        log,
    )


def check_root(union: str, kernel: "Kernel") -> None:
    """Raise BootError unless the root has the mount points for the daemon's root directory."""
    for path in MOUNT_POINTS:
        if not kernel.is_directory(LOWER + path):
            raise BootError(
                f"cannot merge the layers with {union}",
                f"the root has no directory {path}",
                f"make the directory {path} in the root",
            )


def find_program(union: str, kernel: "Kernel") -> str:
    """Return the path of the union program in the root. Raises BootError when there is none."""
    for path in (f"{directory}/{name}" for name in PROGRAMS[union] for directory in _PATH):
        if _is_program(_resolve(path, LOWER, kernel), LOWER, kernel):
            return path
    raise BootError(
        f"cannot merge the layers with {union}",
        f"the root has no {' or '.join(PROGRAMS[union])} in {', '.join(_PATH)}",
        f"install {union} in the root, or choose another with initrd.union=",
    )


def daemon_root_steps() -> tuple[Step, ...]:
    """Return the steps that make the daemon's root directory."""
    private = MS_NOSUID | MS_NODEV | MS_NOEXEC
    return (
        Mount(LOWER, DAEMON_ROOT, "", MS_BIND),  # the program and its libraries
        Mount("tmpfs", f"{DAEMON_ROOT}/dev", "tmpfs", MS_NOSUID | MS_NOEXEC, "mode=0755,size=64k"),
        Node(f"{DAEMON_ROOT}/dev/fuse", 0o600, 10, 229),
        Node(f"{DAEMON_ROOT}/dev/null", 0o666, 1, 3),
        # A FIFO without a reader. unionfs-fuse 1.0 has a thread that writes messages by syslog(3),
        # one for every isatty(3) of any program, and that may leave a lock taken for which all
        # other threads wait for ever. Without /dev/log, syslog(3) opens the console, and so that
        # thread blocks here at its first message. The other threads drop their messages then.
        CreateFifo(f"{DAEMON_ROOT}/dev/console"),
        Mount("/proc", f"{DAEMON_ROOT}/proc", "", MS_BIND),  # for /proc/self/fd
        # mode=0700: a change of a layer that is not made through the merged tree breaks it, so only
        # root may reach the layers. size=64k: a limit on the daemon's log.
        Mount("tmpfs", DAEMON_ROOT + _RUN, "tmpfs", private, "mode=0700,size=64k"),
        Mount(LOWER, DAEMON_ROOT + _RUN + LOWER, "", MS_BIND),
        Mount(LAYER, DAEMON_ROOT + _RUN + LAYER, "", MS_BIND),
        CreateDirectory(DAEMON_ROOT + _MERGED),
    )


def daemon_command(union: str, path: str, *, acls: bool) -> list[bytes]:
    """Return the daemon's argv. systemd does not kill a process whose argv[0] begins with `@`.

    `acls`: the lower layer has access control lists.
    """
    lower, upper, work = _RUN + LOWER, _RUN + UPPER, _RUN + WORK
    if union == "fuse-overlayfs":
        options = f"lowerdir={lower},upperdir={upper},workdir={work},{_COMMON}"
        # Without noacl each lookup of a list would fail, and with it each open(2) of a user.
        options += "" if acls else ",noacl"
        arguments = ["-f", "-o", options, _MERGED]
    else:
        # cow: copy changed files to the upper layer, and record deleted ones there. The tree
        # changes only through this mount, so the kernel may cache names and contents.
        caching = "auto_cache,entry_timeout=3600,negative_timeout=3600"
        options = f"cow,use_ino,statfs_omit_ro,{caching},{_COMMON}"
        arguments = ["-f", "-o", options, f"{upper}=RW:{lower}=RO", _MERGED]
    return [word.encode() for word in (f"@{path}", *arguments)]


def start_daemon(argv: list[bytes], kernel: "Kernel") -> int:
    """Start the daemon with DAEMON_ROOT as its root directory; return its pid. Raises BootError."""
    environ = {b"PATH": ":".join(_PATH).encode()}
    try:
        return kernel.start_daemon(DAEMON_ROOT, argv, environ, _LOG)
    except OSError as error:
        raise BootError(f"cannot start {argv[0][1:].decode()}", reason(error)) from error


def move_steps() -> tuple[Step, ...]:
    """Return the steps that move the merged tree to /sysroot, once the daemon serves it."""
    return CreateDirectory(SYSROOT), Move(DAEMON_ROOT + _MERGED, SYSROOT)


def check_target(options: "BootOptions", root: str, kernel: "Kernel") -> None:
    """Raise BootError unless the target is an executable file in the tree at `root`.

    A target below a later mount, an API mount or an extra share, is not checked.
    """
    failure = f"cannot execute the target {options.init}"
    try:
        path = _resolve(options.init, root, kernel)
    except OSError as error:
        raise BootError(failure, reason(error)) from error
    later_mounts = (*API_MOUNT_POINTS, *(share.path for share in options.shares if share.path))
    if any(f"{path}/".startswith(f"{mount}/") for mount in later_mounts):
        return
    mode = kernel.file_mode(root + path)
    if not mode:
        raise BootError(failure, "there is no such file in the root", "set init=PATH to a program")
    if not stat.S_ISREG(mode):
        raise BootError(failure, "it is no file", "set init=PATH to a program")
    if not mode & 0o111:
        raise BootError(failure, "it is not executable", f"chmod +x {options.init} in the root")


def _resolve(path: str, root: str, kernel: "Kernel") -> str:
    """Return where `path` leads for a process whose root directory is `root`. Raises OSError."""
    return resolve(path, lambda link: kernel.read_link(root + link))


def _is_program(path: str, root: str, kernel: "Kernel") -> bool:
    mode = kernel.file_mode(root + path)
    return stat.S_ISREG(mode) and bool(mode & 0o111)


def _wait_for_mount(pid: int, path: str, timeout: float, kernel: "Kernel") -> None:
    """Wait until the daemon has mounted the merged tree and serves it. Raises BootError."""

    def is_mounted() -> bool:
        status = kernel.wait_status(pid)
        if status is not None:
            raise BootError(f"cannot merge the layers with {path}", _explain_exit(status, kernel))
        return f" {DAEMON_ROOT}{_MERGED} " in kernel.read("/proc/self/mountinfo")

    if not wait_until(is_mounted, timeout, kernel):
        raise BootError(
            f"cannot merge the layers with {path}",
            f"it has mounted nothing after {timeout:g} s",
            "give it more time with initrd.timeout=",
        )
    kernel.list_directory(DAEMON_ROOT + _MERGED)  # waits until the daemon replies


def _explain_exit(status: int, kernel: "Kernel") -> str:
    """Return how the daemon ended, with the last lines of its output."""
    ended = f"it exited with status {status}" if status >= 0 else f"it died of signal {-status}"
    output = kernel.read(DAEMON_ROOT + _LOG).strip().splitlines()[-3:]
    return f"{ended}; it said: {' / '.join(output)}" if output else f"{ended} and said nothing"
