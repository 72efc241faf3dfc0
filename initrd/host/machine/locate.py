"""Find programs on this machine, `/init`, programs in a root, and the cache's directory."""

import os
import stat

from initrd.host.machine.config import Machine
from initrd.host.qemu.arch import Arch, is_native
from initrd.host.system.hosterror import HostError
from initrd.host.system.rootfile import find_in_root

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

# Where distributions install virtiofsd, the one in Rust first. No directory of these is in PATH.
VIRTIOFSD_PLACES = (
    "/usr/libexec/virtiofsd",
    "/usr/lib/virtiofsd",
    "/usr/lib/virtiofsd/virtiofsd",
    "/usr/lib/qemu/virtiofsd",
    "/usr/libexec/qemu/virtiofsd",
)
_PROJECT = os.path.abspath(f"{__file__}/../../../..")
# Of the host's architecture; the /init for another one is beside it, with `-ARCH` in its name.
INIT_PLACES = (
    os.path.join(_PROJECT, "dist/init"),  # a checkout
    os.path.join(_PROJECT, "initrd/freeze/init"),  # a wheel
    os.path.join(os.path.dirname(_PROJECT), "osbuild/initrd/initrd"),  # installed by `make install`
    "/usr/lib/osbuild/initrd/initrd",
    "/usr/local/lib/osbuild/initrd/initrd",
)
TARGET_FOLDERS = ("usr/bin", "usr/sbin", "bin", "sbin", "usr/local/bin", "usr/local/sbin")
_DEFAULT_PATH = "/usr/local/bin:/usr/bin:/bin:/usr/local/sbin:/usr/sbin:/sbin"


def find_program(name: str, environment: "Mapping[str, str]", hint: str) -> str:
    """Return the path of a program: `name` itself if it has a slash, else the first match in PATH.

    Raises HostError, with `hint`, when there is no such program.
    """
    if "/" in name:
        return _require_program(name, hint)
    for folder in environment.get("PATH", _DEFAULT_PATH).split(":"):
        path = os.path.join(folder or ".", name)
        if _is_program(path):
            return path
    raise HostError(f"cannot find {name}", "it is not on the path", hint)


def find_virtiofsd(given: str, environment: "Mapping[str, str]") -> str:
    """Return the path of virtiofsd. Raises HostError when there is none.

    It is `given`, the value of --virtiofsd, else the first of VIRTIOFSD_PLACES, else one in PATH.
    """
    hint = "install it (package virtiofsd or qemu-system-common), or --virtiofsd BIN"
    if given:
        return find_program(given, environment, hint)
    for path in VIRTIOFSD_PLACES:
        if _is_program(path):
            return path
    try:
        return find_program("virtiofsd", environment, hint)
    except HostError:
        places = ", ".join(VIRTIOFSD_PLACES)
        raise HostError("cannot find virtiofsd", f"not on the path nor at {places}", hint) from None


def find_init(given: str, environment: "Mapping[str, str]", arch: Arch | None = None) -> str:
    """Return the path of the program that becomes `/init` in the image.

    It is `given`, the value of --init, else INITRD_INIT of the environment, else the first of
    `init_places` of the guest's architecture. Raises HostError when there is no such file.
    """
    given = given or environment.get("INITRD_INIT", "")
    places = (given,) if given else init_places(arch)
    for path in places:
        if os.path.isfile(path) or (given and os.path.exists(path)):  # `read_init` checks its kind
            return os.path.realpath(path)
    raise HostError(
        "cannot find the /init of the image",
        f"looked for at {', '.join(places)}",
        init_hint(arch),
    )


def init_places(arch: Arch | None) -> tuple[str, ...]:
    """Return the paths at which the `/init` for an architecture may be; None: the host's."""
    if arch is None or is_native(arch):
        return INIT_PLACES
    return tuple(f"{place}-{arch.name}" for place in INIT_PLACES)


def init_hint(arch: Arch | None) -> str:
    """Return what to try without a `/init` for an architecture."""
    option = "" if arch is None or is_native(arch) else f" ARCH={arch.name}"
    return f"make build{option}, or --init FILE"


def find_target(root: str, init: str) -> str:
    """Return the absolute path in `root` of INIT; a name without a slash is looked up there.

    An absolute path is returned as it is. Raises HostError for a relative path, and when the root
    has no program of that name.
    """
    if init.startswith("/"):
        return init
    if "/" in init:
        raise HostError(f"cannot use {init} as init", "it is not an absolute path", f"/{init}")
    for folder in TARGET_FOLDERS:
        path = find_in_root(root, f"{folder}/{init}")
        if path and _is_program(path):
            return f"/{folder}/{init}"
    where = ", ".join(f"/{folder}" for folder in TARGET_FOLDERS)
    raise HostError(f"cannot find {init} in {root}", f"no such program in {where}", "its path")


def is_in_guest(machine: Machine, path: str) -> bool:
    """Return whether the guest has a program at an absolute path, in its root or in a share."""
    for share in machine.shares:
        if path.startswith(f"{share.target}/"):
            inside = path.removeprefix(share.target)
            return _is_program(find_in_root(share.source, inside))
    return _is_program(find_in_root(machine.root.source, path))


def cache_directory(environment: "Mapping[str, str]") -> str:
    """Return the directory of the cache, XDG_CACHE_HOME/initrd; it need not exist."""
    return _xdg_directory(environment, "XDG_CACHE_HOME", ".cache")


def state_directory(environment: "Mapping[str, str]") -> str:
    """Return the directory of the logs, XDG_STATE_HOME/initrd; it need not exist."""
    return _xdg_directory(environment, "XDG_STATE_HOME", ".local/state")


def runtime_directory(environment: "Mapping[str, str]") -> str:
    """Return XDG_RUNTIME_DIR; empty unless it is a directory for this user only, as it is to be."""
    path = environment.get("XDG_RUNTIME_DIR", "")
    try:
        found = os.lstat(path)
    except OSError:  # it does not exist, as after su(1)
        return ""
    is_private = found.st_uid == os.geteuid() and found.st_mode == stat.S_IFDIR | stat.S_IRWXU
    return path if is_private and os.path.isabs(path) else ""


def _xdg_directory(environment: "Mapping[str, str]", variable: str, default: str) -> str:
    parent = environment.get(variable, "")
    if not parent.startswith("/"):  # the XDG specification: ignore a relative path
        parent = os.path.join(_home_directory(environment), default)
    return os.path.join(parent, "initrd")


def _home_directory(environment: "Mapping[str, str]") -> str:
    """Return HOME if it is absolute, else the home directory in the password database.

    A relative one would be another directory for each working directory. For a user who has none
    it is `/`, as for login(1).
    """
    home = environment.get("HOME", "")
    if home.startswith("/"):
        return home
    import pwd  # noqa: PLC0415 - HOME is seldom missing

    try:
        home = pwd.getpwuid(os.getuid()).pw_dir
    except KeyError:
        return "/"
    return home if home.startswith("/") else "/"


def _require_program(path: str, hint: str) -> str:
    if _is_program(path):
        return os.path.abspath(path)
    why = "it is not executable" if os.path.exists(path) else "no such file"
    raise HostError(f"cannot run {path}", why, hint)


def _is_program(path: str) -> bool:
    try:
        mode = os.stat(path).st_mode
    except OSError:  # it does not exist, or this user cannot reach it
        return False
    return stat.S_ISREG(mode) and os.access(path, os.X_OK)
