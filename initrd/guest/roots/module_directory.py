"""Mount the modules of the running kernel at /lib/modules/VERSION, where the root lacks them.

No file of the root is changed or hidden, so the mount depends on the root:

- /lib/modules/VERSION has files: nothing is mounted;
- it is empty: it is the mount point;
- it is missing, and the root has an overlay: the directory is created in the overlay;
- it is missing, and /lib/modules is empty: it is created in a small tmpfs at /lib/modules, which is
  read-only afterwards;
- otherwise there is no place for a mount point, and the boot continues without the modules.
"""

from initrd.errors import reason
from initrd.guest._syscalls import MS_NODEV, MS_NOEXEC, MS_NOSUID, MS_RDONLY, MS_REMOUNT
from initrd.guest.execute import execute
from initrd.guest.failure import BootError
from initrd.guest.plan import share_mount
from initrd.guest.steps import Mount
from initrd.guest.virtiofs import mount_share
from initrd.options import Share

TYPE_CHECKING = False
if TYPE_CHECKING:
    from initrd.guest.kernel import Kernel
    from initrd.guest.log import Log
    from initrd.options import BootOptions

MODULES = "/lib/modules"
_RELEASE = "/proc/sys/kernel/osrelease"  # what `uname -r` prints
_FLAGS = MS_NOSUID | MS_NODEV | MS_NOEXEC
_TMPFS = Mount("tmpfs", MODULES, "tmpfs", _FLAGS, "mode=0755,size=16k")
_TMPFS_READ_ONLY = Mount("tmpfs", MODULES, "", _FLAGS | MS_REMOUNT | MS_RDONLY)


def mount_modules(options: "BootOptions", kernel: "Kernel", log: "Log") -> None:
    """Mount the tags of `initrd.modules=`; the new root is mounted at / now. Raises nothing.

    A failure is a warning: what needs no further modules runs without them.
    """
    try:
        target = f"{MODULES}/{kernel.read(_RELEASE).strip()}"
        try:
            _mount(options, target, kernel, log)
        except OSError as error:  # of reading a directory of the root
            raise BootError(f"cannot look at {target}", reason(error)) from error
    except (BootError, OSError) as error:
        log.warn(f"going on without the kernel's modules: {error}")


def _mount(options: "BootOptions", target: str, kernel: "Kernel", log: "Log") -> None:
    """Find a mount point at `target`, and mount the tags. Raises BootError and OSError."""
    names, others = _list_directory(target, kernel), _list_directory(MODULES, kernel)
    if names:
        log.progress(f"the root has modules in {target}")
    elif names is not None or options.overlay:
        _mount_tags(options, target, kernel, log)
    elif others is not None and not others:
        execute((_TMPFS,), kernel, log)
        _mount_tags(options, target, kernel, log)
        execute((_TMPFS_READ_ONLY,), kernel, log)
    else:
        why = f"{MODULES} of the root has other versions only" if others else f"no {MODULES}"
        hint = f"make the directory {target} in the root"
        raise BootError(f"cannot mount the modules on {target}", why, hint)


def _mount_tags(options: "BootOptions", target: str, kernel: "Kernel", log: "Log") -> None:
    """Mount the tags; a missing mount point is created, which is on an overlay or a tmpfs then."""
    for tag, path in zip(options.modules, (target, f"{target}/build"), strict=False):
        mount = share_mount(Share(tag, writable=False), path)
        mount_share(mount, options.timeout, kernel, log)


def _list_directory(path: str, kernel: "Kernel") -> "list[str] | None":
    """Return the names in a directory, which a link may lead to; None without a directory."""
    try:
        return kernel.list_directory(kernel.real_path(path))
    except (FileNotFoundError, NotADirectoryError):
        return None
