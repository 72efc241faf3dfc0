"""Mounts virtiofs tags, waits for those that are late, and says why one never comes."""

import errno

from initrd.guest.execute import timed
from initrd.guest.failure import BootError, reason
from initrd.guest.log import Log
from initrd.guest.steps import Mount
from initrd.guest.wait import check_transport, wait_until

TYPE_CHECKING = False
if TYPE_CHECKING:
    from initrd.guest.kernel import Kernel

_TAGS = "/sys/fs/virtiofs"  # from Linux 6.9 on
_DEVICES = "/sys/bus/virtio/drivers/virtiofs"
_SETTLED, _ONCE_IN = 0.2, 1.0  # seconds


def mount_share(mount: Mount, timeout: float, kernel: "Kernel", log: Log) -> None:
    """Mount a tag, waiting up to `timeout` seconds for it. Raises BootError that names it."""
    watch = _Watch(kernel)

    def attempt() -> bool:
        if not watch.worth_trying():
            return False
        if _is_mounted(mount, kernel):
            return True
        if watch.attempts == 1:
            log.progress(f"waiting for the tag {mount.source}")
        check_transport(mount.describe(), kernel)
        return False

    def attempts() -> None:
        # The last attempt may have come too soon after the one before to be worth trying.
        if not wait_until(attempt, timeout, kernel) and not _is_mounted(mount, kernel):
            raise BootError(f"cannot {mount.describe()}", *_not_there(mount, timeout, kernel))

    timed(mount, attempts, kernel, log)


class _Watch:
    """Tells when to try again. The kernel logs every attempt that fails, so: not all the time.

    A device is listed shortly before its tag can be mounted. So each change is followed by some
    attempts, and then there is one every second.
    """

    def __init__(self, kernel: "Kernel") -> None:
        self._kernel = kernel
        self._devices: list[str] | None = None
        self._changed = self._tried = 0.0
        self.attempts = 0

    def worth_trying(self) -> bool:
        """Tell whether a mount may succeed now, and count it as tried."""
        if self.attempts and not self._again():
            return False
        self.attempts += 1
        return True

    def _again(self) -> bool:
        now, devices = self._kernel.monotonic(), self._kernel.list_directory(_DEVICES)
        if devices != self._devices:
            self._devices, self._changed = devices, now
        if now >= self._changed + _SETTLED and now < self._tried + _ONCE_IN:
            return False
        self._tried = now
        return True


def _is_mounted(mount: Mount, kernel: "Kernel") -> bool:
    """Mount a tag. Returns False when it is not there; raises BootError for what stays wrong."""
    try:
        mount.apply(kernel)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise BootError(f"cannot {mount.describe()}", *_explain(mount, error)) from error
    else:
        return True
    if mount.source not in tags(kernel):
        return False
    try:  # the tag is there: since a moment ago, or it is an option that is wrong
        mount.apply(kernel)
    except OSError as error:
        raise BootError(f"cannot {mount.describe()}", *_explain(mount, error)) from error
    return True


def tags(kernel: "Kernel") -> tuple[str, ...]:
    """Return the tags of the virtiofs devices, as far as the kernel tells."""
    return tuple(
        kernel.read(f"{_TAGS}/{entry}/tag").strip("\n")
        for entry in kernel.list_directory(_TAGS)
        if kernel.exists(f"{_TAGS}/{entry}/tag")
    )


def _explain(mount: Mount, error: OSError) -> tuple[str, str]:
    if error.errno == errno.ENODEV:
        return (
            "this kernel has no virtiofs, and no module in the image brings it",
            "make the image with mkvirtinitrd from the modules of this very kernel",
        )
    if error.errno == errno.EBUSY:
        return reason(error), f"tag {mount.source} may be mounted already: use each tag once"
    if error.errno == errno.EINVAL:
        return f"{reason(error)}: the tag is there, an option is not understood", "check rootflags="
    if error.errno in (errno.EEXIST, errno.ENOTDIR):
        return f"{mount.target} is there, but leads to no directory", "mount it at another path"
    if error.errno in (errno.ENOENT, errno.EROFS):
        return reason(
            error
        ), f"make the directory {mount.target} in the root, or leave the path out"
    return reason(error), ""


def _not_there(mount: Mount, timeout: float, kernel: "Kernel") -> tuple[str, str]:
    return (
        f"no tag {mount.source} after {timeout:g} s; {_what_is_there(kernel)}",
        "check the tag= of the vhost-user-fs device, or give it more time with initrd.timeout=",
    )


def _what_is_there(kernel: "Kernel") -> str:
    there = tags(kernel)
    if there:
        return f"the tags there are: {', '.join(there)}"
    count = sum(name.startswith("virtio") for name in kernel.list_directory(_DEVICES))
    if count == 0:
        return "there are no virtiofs devices at all"
    devices = "is one virtiofs device" if count == 1 else f"are {count} virtiofs devices"
    return f"there {devices}, but this kernel does not tell the tag"
