"""Whether virtiofsd can shut itself in here: what its sandbox takes is tried in its place.

It would say no more than that it failed. What may be in its way are the kernel's settings in
user_namespaces(7), and those that distributions have added.
"""

import resource

from initrd.errors import reason
from initrd.host.system.process import run_in_child
from initrd.host.system.syscalls import enter_user_namespace, leave_mount_namespace

_MAY = "may"
CAP_DAC_READ_SEARCH, CAP_SYS_ADMIN = 1 << 2, 1 << 21  # include/uapi/linux/capability.h
# A file below /proc/sys, the values in it with which the kernel refuses, and how to allow it.
_SETTINGS = (
    ("user/max_user_namespaces", "0", "sysctl user.max_user_namespaces=10000"),
    ("kernel/unprivileged_userns_clone", "0", "sysctl kernel.unprivileged_userns_clone=1"),
    (
        "kernel/apparmor_restrict_unprivileged_userns",
        "1",
        "sysctl kernel.apparmor_restrict_unprivileged_userns=0",
    ),
)
ENOUGH_FILES = 500_000  # systemd gives 524,288 to all that it starts
LEAST_FILES = 610  # the one in Rust, 1.13, does not start with less


def why_no_namespaces(*, root: bool) -> str:
    """Return why this process cannot have mounts of its own; empty when it can.

    An ordinary user needs a user namespace for that; `root` does not, unless it was deprived.
    """
    if root and has_capability(CAP_SYS_ADMIN):
        return ""
    said = run_in_child(lambda: _try(root=root))
    return "" if said == _MAY else said or "it hangs"


def has_capability(capability: int, status: str = "/proc/self/status") -> bool:
    """Tell from /proc/PID/status whether a process has a capability."""
    fields = dict(line.split(":", 1) for line in _read(status).splitlines())
    return bool(int(fields.get("CapEff", "0"), 16) & capability)


def _try(*, root: bool) -> str:
    try:
        if not root:
            enter_user_namespace()
        leave_mount_namespace()
    except OSError as error:
        return f"{error.filename}: {reason(error)}"
    return _MAY


def namespace_advice(*, root: bool, settings: str = "/proc/sys") -> str:
    """Return what may help, going by the kernel's settings."""
    if root:
        return "outside of this container, or with the capability CAP_SYS_ADMIN in it"
    found = (how for name, refuses, how in _SETTINGS if _read(f"{settings}/{name}") == refuses)
    return " ".join([*(f"{how} as root, or" for how in found), "run chrootvm as root"])


def _read(path: str) -> str:
    try:
        with open(path, encoding="ascii") as file:
            return file.read().strip()
    except OSError:  # this kernel has no such setting
        return ""


def open_file_limit() -> int:
    """Return how many files a program that is started here may have open."""
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    return ENOUGH_FILES if most == resource.RLIM_INFINITY else most


def need_file_handles() -> bool:
    """Tell whether few files may be open here, and handles are there to make up for that."""
    return open_file_limit() < ENOUGH_FILES and has_capability(CAP_DAC_READ_SEARCH)
