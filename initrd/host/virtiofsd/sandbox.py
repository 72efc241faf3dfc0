"""The kernel's limits on virtiofsd: user and mount namespaces, capabilities, open files.

virtiofsd enters new namespaces, and reports only that this has failed, not why. So the same system
calls are tried first, in a child process. They may be forbidden by the kernel's
settings in user_namespaces(7), and by those that distributions have added. The virtiofsd in Rust
has two further modes: chroot(2), and none.
"""

import resource

from initrd.errors import reason
from initrd.host.system.process import run_in_child
from initrd.host.system.syscalls import unshare_mount_namespace, unshare_user_namespace
from initrd.text import decode

NAMESPACE, CHROOT, NONE = "namespace", "chroot", "none"  # as the option --sandbox takes them
# include/uapi/linux/capability.h
CAP_DAC_READ_SEARCH, CAP_SYS_CHROOT, CAP_SYS_ADMIN = 1 << 2, 1 << 18, 1 << 21
AMPLE_OPEN_FILES = 500_000  # systemd's limit of open files is 524,288 for all its services
MIN_OPEN_FILES = 610  # the Rust virtiofsd 1.13 does not start with a lower limit
_ALLOWED = "allowed"
# A file below /proc/sys, the value with which the kernel forbids user namespaces, a command that
# allows them.
_SETTINGS = (
    ("user/max_user_namespaces", "0", "sysctl user.max_user_namespaces=10000"),
    ("kernel/unprivileged_userns_clone", "0", "sysctl kernel.unprivileged_userns_clone=1"),
    (
        "kernel/apparmor_restrict_unprivileged_userns",
        "1",
        "sysctl kernel.apparmor_restrict_unprivileged_userns=0",
    ),
)


def choose_sandbox(obstacle: str, *, root: bool) -> str:
    """Return the mode of the virtiofsd in Rust; `obstacle`: why it can have no namespaces."""
    if not obstacle:
        return NAMESPACE
    return CHROOT if root and has_capability(CAP_SYS_CHROOT) else NONE


def find_namespace_problem(*, root: bool) -> str:
    """Return why this process cannot have a mount namespace; empty when it can.

    `root`: the process is root's, and needs no user namespace if it has CAP_SYS_ADMIN.
    """
    if root and has_capability(CAP_SYS_ADMIN):
        return ""
    result = run_in_child(lambda: _try_namespaces(root=root))
    return "" if result == _ALLOWED else result or "it hangs"


def namespace_hint(*, root: bool, settings: str = "/proc/sys") -> str:
    """Return the hint for a process that cannot have namespaces, from the kernel's settings."""
    if root:
        return "outside of this container, or with the capability CAP_SYS_ADMIN in it"
    commands = (
        command
        for name, forbidding, command in _SETTINGS
        if _read(f"{settings}/{name}") == forbidding
    )
    return " ".join([*(f"{command} as root, or" for command in commands), "run chrootvm as root"])


def has_capability(capability: int, status: str = "/proc/self/status") -> bool:
    """Return whether a process has a capability in its effective set: proc_pid_status(5)."""
    name = "CapEff:"  # the first field is the program's name, which may have any bytes
    lines = _read(status).split("\n")
    held = next((line.removeprefix(name) for line in lines if line.startswith(name)), "0")
    return bool(int(held, 16) & capability)


def open_file_limit() -> int:
    """Return how many files a program that this process starts may have open: its hard limit."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    return AMPLE_OPEN_FILES if hard == resource.RLIM_INFINITY else hard


def needs_file_handles() -> bool:
    """Return whether virtiofsd should use file handles: the limit of open files is low.

    With file handles virtiofsd does not keep open every file that the guest has looked up. They
    need CAP_DAC_READ_SEARCH: open_by_handle_at(2).
    """
    return open_file_limit() < AMPLE_OPEN_FILES and has_capability(CAP_DAC_READ_SEARCH)


def _try_namespaces(*, root: bool) -> str:
    try:
        if not root:
            unshare_user_namespace()
        unshare_mount_namespace()
    except OSError as error:
        return f"{error.filename}: {reason(error)}"
    return _ALLOWED


def _read(path: str) -> str:
    try:
        with open(path, "rb") as file:
            return decode(file.read()).strip()
    except OSError:  # this kernel has no such setting
        return ""
