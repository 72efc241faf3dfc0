"""Prepare container bundles for a runtime, and clean them up.

A bundle is a directory with `rootfs/`, which becomes a mount point, as container runtimes require;
or with `lower/`, `tmp/` and `rootfs/`, whose `rootfs/` becomes a writable view of `lower/` with the
changes in memory. `/init` prepares the bundles of `initrd.bundle=`. As a program, run by root:

    python3 -m initrd.guest.roots.bundle prepare|cleanup DIRECTORY

Source: the OCI runtime specification, `bundle.md`.
"""

import errno
import sys

from initrd.errors import reason
from initrd.guest._syscalls import MS_BIND, UMOUNT_NOFOLLOW
from initrd.guest.execute import execute
from initrd.guest.failure import BootError
from initrd.guest.log import Log
from initrd.guest.roots.overlay import OVERLAY_OPTIONS
from initrd.guest.roots.steps import CreateDirectory, CreateDirectoryLike, MakePrivate
from initrd.guest.steps import Mount, Step

TYPE_CHECKING = False
if TYPE_CHECKING:
    from initrd.guest.kernel import Kernel

ROOTFS, LOWER, TMP = "rootfs", "lower", "tmp"
_TMPFS_SIZE = "10%"  # of the memory; holds the changes of a container


class OverlayMount(Mount):
    """The overlayfs mount of a bundle, with a hint for a kernel without overlayfs."""

    def hint(self, error: OSError) -> str:
        """Return how to add overlayfs to the image, for ENODEV."""
        if error.errno == errno.ENODEV:
            return "this kernel has no overlayfs: put it into the image, mkvirtinitrd --overlay"
        return ""


def prepare_all(paths: tuple[str, ...], kernel: "Kernel", log: Log) -> None:
    """Prepare several bundles. Raises BootError at the first that cannot be prepared."""
    for path in paths:
        prepare(path, kernel, log)


def prepare(path: str, kernel: "Kernel", log: Log) -> None:
    """Make the mounts of the bundle at `path`. Raises BootError after all of them are undone."""
    is_layered = check_bundle(path, kernel, log)
    mounted: list[str] = []
    _change_directory(path, kernel)
    try:
        for step in layer_steps(path) if is_layered else mount_point_steps(path):
            execute((step,), kernel, log)
            mounted += [step.target] if isinstance(step, Mount) else []
    except BaseException:  # KeyboardInterrupt too, in a run as a program
        for target in reversed(mounted):
            _unmount(target, kernel, log)  # an error here is dropped: the first one is raised
        raise
    finally:
        kernel.chdir("/")


def cleanup(path: str, kernel: "Kernel", log: Log) -> None:
    """Unmount what `prepare` mounted, and later mounts below it.

    Continues after an error, and raises BootError with all mounts that remain. A bundle without
    mounts is no error.
    """
    try:
        directory, table = kernel.real_path(path), kernel.read("/proc/self/mountinfo")
    except OSError as error:
        raise BootError(f"cannot clean up the bundle {path}", reason(error)) from error
    places = (ROOTFS, TMP) if kernel.exists(f"{path}/{LOWER}") else (ROOTFS,)
    targets = [target for place in places for target in mounts_at(f"{directory}/{place}", table)]
    errors = [text for target in targets if (text := _unmount(target, kernel, log))]
    if errors:
        raise BootError(
            f"cannot clean up the bundle {path}", "; ".join(errors), "stop what runs in it"
        )


def check_bundle(path: str, kernel: "Kernel", log: Log) -> bool:
    """Return whether the bundle has layers. Raises BootError when `path` is not a bundle."""
    is_layered = kernel.exists(f"{path}/{LOWER}")
    for name in (LOWER, TMP, ROOTFS) if is_layered else (ROOTFS,):
        if not kernel.is_directory(f"{path}/{name}"):
            problem = "that is no directory" if kernel.exists(f"{path}/{name}") else "missing"
            raise BootError(
                f"cannot prepare the bundle {path}",
                f"{name}: {problem}",
                "a bundle has rootfs/, or lower/, tmp/ and rootfs/",
            )
    for name in (TMP, ROOTFS) if is_layered else ():
        if kernel.list_directory(f"{path}/{name}"):
            log.warn(f"the bundle {path} has files in {name}: they are hidden now")
    return is_layered


def mount_point_steps(path: str) -> tuple[Step, ...]:
    """Return the steps that make `rootfs` a mount point, as pivot_root(2) requires."""
    rootfs = f"{path}/{ROOTFS}"
    return Mount(rootfs, rootfs, "", MS_BIND), MakePrivate(rootfs)


def layer_steps(path: str) -> tuple[Step, ...]:
    """Return the steps that make `rootfs` a writable view of `lower`.

    The layers are relative paths, and the bundle is the working directory: `path` may contain the
    characters that separate mount options, and kernels differ in how these are escaped.
    """
    tmp, rootfs = f"{path}/{TMP}", f"{path}/{ROOTFS}"
    data = f"lowerdir={LOWER},upperdir={TMP}/upper,workdir={TMP}/work,{OVERLAY_OPTIONS}"
    return (
        Mount("tmpfs", tmp, "tmpfs", 0, f"mode=0755,size={_TMPFS_SIZE}"),
        MakePrivate(tmp),
        CreateDirectoryLike(f"{tmp}/upper", f"{path}/{LOWER}"),  # becomes `/` of the container
        CreateDirectory(f"{tmp}/work"),
        OverlayMount("overlay", rootfs, "overlay", 0, data),
        MakePrivate(rootfs),
    )


def _change_directory(path: str, kernel: "Kernel") -> None:
    try:
        kernel.chdir(path)
    except OSError as error:
        raise BootError(f"cannot prepare the bundle {path}", reason(error)) from error


def _unmount(target: str, kernel: "Kernel", log: Log) -> str:
    """Unmount `target`; return an error message, empty on success."""
    log.progress(f"unmount {target}")
    try:
        kernel.unmount(target, UMOUNT_NOFOLLOW)
    except OSError as error:
        return f"{target}: {reason(error)}"
    return ""


def main(arguments: list[str]) -> int:
    """Prepare or clean up a bundle from the shell; return the exit status."""
    from initrd.guest.kernel import Kernel  # noqa: PLC0415 - not needed with a fake kernel

    actions = {"prepare": prepare, "cleanup": cleanup}
    if len(arguments) != 2 or arguments[0] not in actions:
        print(
            "usage: python3 -m initrd.guest.roots.bundle prepare|cleanup DIRECTORY", file=sys.stderr
        )
        return 2
    kernel = Kernel()
    log = Log(kernel)
    log.set_verbose(False)
    try:
        actions[arguments[0]](_resolve(arguments[0], arguments[1], kernel), kernel, log)
    except BootError as error:
        print(f"initrd: {error}", file=sys.stderr)
        return 1
    return 0


def _resolve(action: str, path: str, kernel: "Kernel") -> str:
    try:
        return kernel.real_path(path)
    except OSError as error:
        raise BootError(f"cannot {action} the bundle {path}", reason(error)) from error


def mounts_at(place: str, table: str) -> list[str]:
    """Return the topmost mount at `place` and the mounts below it, in the order to unmount them.

    `place` is a path without symbolic links, `table` the text of /proc/self/mountinfo: proc(5).
    """
    rows = [line.split(" ") for line in table.split("\n")]  # a name may have a \r
    mounts = [(row[0], row[1], _unescape(row[4])) for row in rows if len(row) > 4]
    at_place = [number for number, _, point in mounts if point == place]
    if not at_place:
        return []
    tree, points = {at_place[-1]}, []  # mount IDs; mount points
    for number, parent, point in mounts:
        if number in tree or parent in tree:
            tree.add(number)
            points.append(point)
    return points[::-1]


def _unescape(field: str) -> str:
    """Decode the octal escapes of white space, `#` and backslash in mountinfo."""
    text = field
    for octal in ("040", "011", "012", "043"):
        text = text.replace(f"\\{octal}", chr(int(octal, 8)))
    return text.replace("\\134", "\\")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
