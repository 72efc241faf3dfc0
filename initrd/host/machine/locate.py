"""Paths: of programs on this machine, of `/init`, of the cache, and of a program in a root."""

import os
import stat

from initrd.errors import HostError
from initrd.host.machine.config import Machine
from initrd.host.system.files import resolve_in_root

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

# Where distributions install virtiofsd, the one in Rust first; none is on a user's PATH.
VIRTIOFSD_PLACES = (
    "/usr/libexec/virtiofsd",
    "/usr/lib/virtiofsd",
    "/usr/lib/virtiofsd/virtiofsd",
    "/usr/lib/qemu/virtiofsd",
    "/usr/libexec/qemu/virtiofsd",
)
_TOP = os.path.abspath(f"{__file__}/../../../..")
INIT_PLACES = (
    os.path.join(_TOP, "dist/init"),  # a checkout
    os.path.join(_TOP, "initrd/freeze/init"),  # a wheel
    os.path.join(os.path.dirname(_TOP), "osbuild/initrd/initrd"),  # installed beside us
    "/usr/lib/osbuild/initrd/initrd",
    "/usr/local/lib/osbuild/initrd/initrd",
)
TARGET_FOLDERS = ("usr/bin", "usr/sbin", "bin", "sbin", "usr/local/bin", "usr/local/sbin")
_PATH = "/usr/local/bin:/usr/bin:/bin:/usr/local/sbin:/usr/sbin:/sbin"


def find_program(name: str, environment: "Mapping[str, str]", hint: str) -> str:
    """Return the path of a program: `name` itself if it has a slash, else found on the path."""
    if "/" in name:
        return _checked(name, hint)
    for folder in environment.get("PATH", _PATH).split(":"):
        path = os.path.join(folder or ".", name)
        if _is_program(path):
            return path
    raise HostError(f"cannot find {name}", "it is not on the path", hint)


def find_virtiofsd(wanted: str, environment: "Mapping[str, str]") -> str:
    """Return the path of a virtiofsd. Raises HostError when there is none."""
    hint = "install it (package virtiofsd or qemu-system-common), or --virtiofsd BIN"
    if wanted:
        return find_program(wanted, environment, hint)
    for path in VIRTIOFSD_PLACES:
        if _is_program(path):
            return path
    try:
        return find_program("virtiofsd", environment, hint)
    except HostError:
        places = ", ".join(VIRTIOFSD_PLACES)
        raise HostError("cannot find virtiofsd", f"not on the path nor at {places}", hint) from None


def find_init(wanted: str, environment: "Mapping[str, str]") -> str:
    """Return the path of the program that becomes `/init` in the image."""
    given = wanted or environment.get("INITRD_INIT", "")
    for path in (given,) if given else INIT_PLACES:
        if os.path.isfile(path):
            return os.path.realpath(path)
    where = given or ", ".join(INIT_PLACES)
    raise HostError(
        "cannot find the /init of the image",
        f"looked for at {where}",
        "make build, or --init FILE",
    )


def find_target(root: str, init: str) -> str:
    """Return the path in `root` of the program `init`: a bare name is looked up there."""
    if init.startswith("/"):
        return init
    if "/" in init:
        raise HostError(f"cannot use {init} as init", "it is not an absolute path", f"/{init}")
    for folder in TARGET_FOLDERS:
        path = resolve_in_root(root, f"{folder}/{init}")
        if path and _is_program(path):
            return f"/{folder}/{init}"
    where = ", ".join(f"/{folder}" for folder in TARGET_FOLDERS)
    raise HostError(f"cannot find {init} in {root}", f"no such program in {where}", "its path")


def is_in_guest(machine: Machine, path: str) -> bool:
    """Tell whether the guest has a program at an absolute path, in its root or in a share."""
    for share in machine.shares:
        if path.startswith(f"{share.target}/"):
            inside = path.removeprefix(share.target)
            return _is_program(resolve_in_root(share.source, inside))
    return _is_program(resolve_in_root(machine.root.source, path))


def cache_directory(environment: "Mapping[str, str]") -> str:
    """Return the directory of our cache, XDG_CACHE_HOME/initrd; it need not exist."""
    return _own_directory(environment, "XDG_CACHE_HOME", ".cache")


def state_directory(environment: "Mapping[str, str]") -> str:
    """Return the directory of our logs, XDG_STATE_HOME/initrd; it need not exist."""
    return _own_directory(environment, "XDG_STATE_HOME", ".local/state")


def _own_directory(environment: "Mapping[str, str]", variable: str, default: str) -> str:
    top = environment.get(variable, "")
    if not top.startswith("/"):  # the specification says to ignore others
        top = os.path.join(os.path.expanduser("~"), default)
    return os.path.join(top, "initrd")


def _checked(path: str, hint: str) -> str:
    if _is_program(path):
        return os.path.abspath(path)
    why = "it is not executable" if os.path.exists(path) else "no such file"
    raise HostError(f"cannot run {path}", why, hint)


def _is_program(path: str) -> bool:
    try:
        mode = os.stat(path).st_mode
    except OSError:  # not there, or out of our reach
        return False
    return stat.S_ISREG(mode) and os.access(path, os.X_OK)
