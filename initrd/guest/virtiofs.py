"""Mount virtiofs tags: wait for late devices, and explain a mount that fails."""

import errno

from initrd.errors import reason
from initrd.guest.execute import timed
from initrd.guest.failure import BootError
from initrd.guest.log import Log
from initrd.guest.steps import Mount
from initrd.guest.wait import check_transport, wait_until

TYPE_CHECKING = False
if TYPE_CHECKING:
    from initrd.guest.kernel import Kernel

_TAGS = "/sys/fs/virtiofs"  # from Linux 6.9 on
_DEVICES = "/sys/bus/virtio/drivers/virtiofs"
# Seconds: attempts are frequent for so long after the devices changed; then one per interval.
_FREQUENT_PERIOD, _INTERVAL = 0.2, 1.0


def mount_share(mount: Mount, timeout: float, kernel: "Kernel", log: Log) -> None:
    """Mount a tag, waiting up to `timeout` seconds for it. Raises BootError that names it."""
    attempts = _Attempts(kernel)

    def attempt() -> bool:
        if not attempts.start_if_due():
            return False
        if _try_mount(mount, kernel):
            return True
        if attempts.count == 1:
            log.progress(f"waiting for the tag {mount.source}")
        check_transport(mount.describe(), kernel)
        return False

    def mount_in_time() -> None:
        # At the deadline, one more attempt: `attempt` may have skipped the mount shortly before.
        if not wait_until(attempt, timeout, kernel) and not _try_mount(mount, kernel):
            raise BootError(f"cannot {mount.describe()}", *_explain_timeout(mount, timeout, kernel))

    timed(mount, mount_in_time, kernel, log)


class _Attempts:
    """The times of the attempts to mount. They are limited: the kernel logs each that fails.

    A device is listed in sysfs shortly before its tag can be mounted. So attempts are frequent
    after each change of the devices, and then there is one per second.
    """

    def __init__(self, kernel: "Kernel") -> None:
        self._kernel = kernel
        self._devices: list[str] | None = None
        self._changed_at = self._last_at = 0.0  # seconds of the monotonic clock
        self.count = 0

    def start_if_due(self) -> bool:
        """Return whether to try the mount now; count an attempt if so."""
        if self.count and not self._is_due():
            return False
        self.count += 1
        return True

    def _is_due(self) -> bool:
        now, devices = self._kernel.monotonic(), self._kernel.list_directory(_DEVICES)
        if devices != self._devices:
            self._devices, self._changed_at = devices, now
        if now >= self._changed_at + _FREQUENT_PERIOD and now < self._last_at + _INTERVAL:
            return False
        self._last_at = now
        return True


def _try_mount(mount: Mount, kernel: "Kernel") -> bool:
    """Mount a tag; return False when there is no such tag. Raises BootError for other errors."""
    try:
        mount.apply(kernel)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise BootError(f"cannot {mount.describe()}", *_explain(mount, error)) from error
    else:
        return True
    if mount.source not in list_tags(kernel):
        return False
    try:  # EINVAL, and the tag exists: it has just appeared, or a mount option is wrong
        mount.apply(kernel)
    except OSError as error:
        raise BootError(f"cannot {mount.describe()}", *_explain(mount, error)) from error
    return True


def list_tags(kernel: "Kernel") -> tuple[str, ...]:
    """Return the tags of the virtiofs devices; none on kernels before Linux 6.9."""
    return tuple(
        kernel.read(f"{_TAGS}/{entry}/tag").strip("\n")
        for entry in kernel.list_directory(_TAGS)
        if kernel.exists(f"{_TAGS}/{entry}/tag")
    )


def _explain(mount: Mount, error: OSError) -> tuple[str, str]:
    """Return the reason why a mount failed, and what to try."""
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
        hint = f"make the directory {mount.target} in the root, or leave the path out"
        return reason(error), hint
    return reason(error), ""


def _explain_timeout(mount: Mount, timeout: float, kernel: "Kernel") -> tuple[str, str]:
    return (
        f"no tag {mount.source} after {timeout:g} s; {_describe_devices(kernel)}",
        "check the tag= of the vhost-user-fs device, or give it more time with initrd.timeout=",
    )


def _describe_devices(kernel: "Kernel") -> str:
    """Return a clause that lists the tags, or the number of devices where tags are unknown."""
    tags = list_tags(kernel)
    if tags:
        return f"the tags there are: {', '.join(tags)}"
    count = sum(name.startswith("virtio") for name in kernel.list_directory(_DEVICES))
    if count == 0:
        return "there are no virtiofs devices at all"
    devices = "is one virtiofs device" if count == 1 else f"are {count} virtiofs devices"
    return f"there {devices}, but this kernel does not tell the tag"
