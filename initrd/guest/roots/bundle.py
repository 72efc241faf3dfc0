"""Prepares container bundles, and undoes it.

A bundle is a directory with `rootfs/`, which becomes a mount point, as container runtimes want it;
or with `lower/`, `tmp/` and `rootfs/`, whose `rootfs/` becomes a writable view of `lower/`, kept in
memory. `/init` prepares those of `initrd.bundle=`; by hand, as root:

    python3 -m initrd.guest.roots.bundle prepare|cleanup DIRECTORY

Source: the OCI runtime specification, `bundle.md`.
"""

import errno
import sys

from initrd.guest._syscalls import MS_BIND, UMOUNT_NOFOLLOW
from initrd.guest.execute import execute
from initrd.guest.failure import BootError, reason
from initrd.guest.log import Log
from initrd.guest.roots.overlay import OVERLAY_OPTIONS
from initrd.guest.roots.steps import Directory, DirectoryLike, Private
from initrd.guest.steps import Mount, Step

TYPE_CHECKING = False
if TYPE_CHECKING:
    from initrd.guest.kernel import Kernel

ROOTFS, LOWER, TMP = "rootfs", "lower", "tmp"
_SIZE = "10%"  # of the memory, for what a container changes


class Merge(Mount):
    """The mount that merges the layers of a bundle; says what to do where overlayfs is missing."""

    def hint(self, error: OSError) -> str:
        """Name the way to get overlayfs."""
        if error.errno == errno.ENODEV:
            return "this kernel has no overlayfs: put it into the image, mkvirtinitrd --overlay"
        return ""


def prepare_all(paths: tuple[str, ...], kernel: "Kernel", log: Log) -> None:
    """Prepare several bundles. Raises BootError for the first that is none."""
    for path in paths:
        prepare(path, kernel, log)


def prepare(path: str, kernel: "Kernel", log: Log) -> None:
    """Make the bundle at `path` ready to run. Raises BootError; then no mount is left of it."""
    layered = check(path, kernel, log)
    mounted: list[str] = []
    _enter(path, kernel)
    try:
        for step in layer_steps(path) if layered else mount_point_steps(path):
            execute((step,), kernel, log)
            mounted += [step.target] if isinstance(step, Mount) else []
    except BaseException:  # by hand also Ctrl-C
        for target in reversed(mounted):
            _unmount(target, kernel, log)  # a failure here must not hide the one that counts
        raise
    finally:
        kernel.chdir("/")


def cleanup(path: str, kernel: "Kernel", log: Log) -> None:
    """Undo `prepare`, as far as that goes. Raises BootError for what is left.

    What was mounted in `rootfs/` in the meantime goes too. There may be nothing to undo.
    """
    try:
        top, table = kernel.real_path(path), kernel.read("/proc/self/mountinfo")
    except OSError as error:
        raise BootError(f"cannot clean up the bundle {path}", reason(error)) from error
    places = (ROOTFS, TMP) if kernel.exists(f"{path}/{LOWER}") else (ROOTFS,)
    targets = [target for place in places for target in mounts_at(f"{top}/{place}", table)]
    left = [failure for target in targets if (failure := _unmount(target, kernel, log))]
    if left:
        what, why = f"cannot clean up the bundle {path}", "; ".join(left)
        raise BootError(what, why, "stop what runs in it")


def check(path: str, kernel: "Kernel", log: Log) -> bool:
    """Tell whether the bundle has layers. Raises BootError unless it is a bundle."""
    layered = kernel.exists(f"{path}/{LOWER}")
    for name in (LOWER, TMP, ROOTFS) if layered else (ROOTFS,):
        if not kernel.is_directory(f"{path}/{name}"):
            there = "that is no directory" if kernel.exists(f"{path}/{name}") else "missing"
            raise BootError(
                f"cannot prepare the bundle {path}",
                f"{name}: {there}",
                "a bundle has rootfs/, or lower/, tmp/ and rootfs/",
            )
    for name in (TMP, ROOTFS) if layered else ():
        if kernel.list_directory(f"{path}/{name}"):
            log.warn(f"the bundle {path} has files in {name}: they are hidden now")
    return layered


def mount_point_steps(path: str) -> tuple[Step, ...]:
    """Return how `rootfs` becomes a mount point: pivot_root(2) of a runtime needs one."""
    rootfs = f"{path}/{ROOTFS}"
    return Mount(rootfs, rootfs, "", MS_BIND), Private(rootfs)


def layer_steps(path: str) -> tuple[Step, ...]:
    """Return how `rootfs` becomes a writable view of `lower`.

    The layers are named from the bundle on, where we are: a path of the user's may hold what
    separates options, and kernels differ in how that is escaped.
    """
    tmp, rootfs = f"{path}/{TMP}", f"{path}/{ROOTFS}"
    data = f"lowerdir={LOWER},upperdir={TMP}/upper,workdir={TMP}/work,{OVERLAY_OPTIONS}"
    return (
        Mount("tmpfs", tmp, "tmpfs", 0, f"mode=0755,size={_SIZE}"),
        Private(tmp),
        DirectoryLike(f"{tmp}/upper", f"{path}/{LOWER}"),  # it becomes the container's `/`
        Directory(f"{tmp}/work"),
        Merge("overlay", rootfs, "overlay", 0, data),
        Private(rootfs),
    )


def _enter(path: str, kernel: "Kernel") -> None:
    try:
        kernel.chdir(path)
    except OSError as error:
        raise BootError(f"cannot prepare the bundle {path}", reason(error)) from error


def _unmount(target: str, kernel: "Kernel", log: Log) -> str:
    """Unmount; return what went wrong."""
    log.progress(f"unmount {target}")
    try:
        kernel.unmount(target, UMOUNT_NOFOLLOW)
    except OSError as error:
        return f"{target}: {reason(error)}"
    return ""


def main(arguments: list[str]) -> int:
    """Prepare or clean up a bundle by hand; return the exit status."""
    from initrd.guest.kernel import Kernel  # noqa: PLC0415 - tests do without system calls

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
        actions[arguments[0]](_where(arguments[0], arguments[1], kernel), kernel, log)
    except BootError as error:
        print(f"initrd: {error}", file=sys.stderr)
        return 1
    return 0


def _where(action: str, path: str, kernel: "Kernel") -> str:
    try:
        return kernel.real_path(path)
    except OSError as error:
        raise BootError(f"cannot {action} the bundle {path}", reason(error)) from error


def mounts_at(place: str, table: str) -> list[str]:
    """Return the mount points to unmount so that `place` is no mount any more, last ones first.

    That is the topmost mount at `place` and all that is mounted below it. `place` is a real path.
    """
    rows = [line.split(" ") for line in table.splitlines()]
    mounts = [(row[0], row[1], _unescape(row[4])) for row in rows if len(row) > 4]
    tops = [number for number, _, point in mounts if point == place]
    if not tops:
        return []
    inside, found = {tops[-1]}, []
    for number, parent, point in mounts:
        if number in inside or parent in inside:
            inside.add(number)
            found.append(point)
    return found[::-1]


def _unescape(field: str) -> str:
    """Undo how the kernel writes white space, `#` and backslash: three octal digits."""
    text = field
    for octal in ("040", "011", "012", "043"):
        text = text.replace(f"\\{octal}", chr(int(octal, 8)))
    return text.replace("\\134", "\\")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
