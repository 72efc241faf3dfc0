"""Provide /etc/resolv.conf in the new root without changing a file of the root.

The action depends on /etc/resolv.conf in the root:

- a link to a path below /run: the file is written to that path;
- a file: a generated file in /run is bind-mounted over it;
- missing, in a writable root: an empty file is created and the generated file is mounted over it;
- missing, in a read-only root: an overlayfs adds the generated file to /etc, which stays read-only.
"""

import errno
import os

from initrd.guest._syscalls import MS_BIND, MS_RDONLY
from initrd.guest.execute import execute
from initrd.guest.failure import BootError
from initrd.guest.steps import Step
from initrd.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from initrd.guest.kernel import Kernel
    from initrd.guest.log import Log

RESOLV_CONF = "/etc/resolv.conf"
_GENERATED = "/run/initrd/resolv.conf"
_LAYER = "/run/initrd/layer"  # the files that the overlayfs adds to a directory of the root
# systemd-resolved replaces the file in its directory, and reads the name servers from the drop-in.
_RESOLVED, _RESOLVED_DROP_IN = "/run/systemd/resolve/", "/run/systemd/resolved.conf.d/initrd.conf"
# Errors of writing to a read-only root: EROFS; EACCES or EPERM from virtiofsd. ENOENT: the link
# /etc/resolv.conf leads to a directory that does not exist.
_READ_ONLY = (errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOENT)
# The kernel has no overlayfs; overlayfs does not support this file system; no such directory.
_NO_OVERLAY = (errno.ENODEV, errno.EINVAL, errno.ENOENT, errno.ENOTDIR)


class ResolverSettings(Record):
    """The name servers, the search domain and the host name of this machine."""

    servers: tuple[str, ...] = ()
    domain: str = ""
    hostname: str = ""

    def resolv_conf(self) -> str:
        """Return the text of a resolv.conf(5)."""
        search = f"search {self.domain}\n" if self.domain else ""
        return search + "".join(f"nameserver {server}\n" for server in self.servers)

    def resolved_conf(self) -> str:
        """Return the text of a drop-in of resolved.conf(5)."""
        domains = f"Domains={self.domain}\n" if self.domain else ""
        return f"[Resolve]\nDNS={' '.join(self.servers)}\n{domains}"


class WriteFile(Step):
    """Write a file in /run; its directory is created where it is missing."""

    path: str
    text: str

    def describe(self) -> str:
        """Return text that names the file."""
        return f"write {self.path}"

    def apply(self, kernel: "Kernel") -> None:
        """Create the directory and write the file."""
        kernel.make_directory(os.path.dirname(self.path))
        kernel.write_file(self.path, self.text)


class CreateFile(Step):
    """Create an empty file in the root."""

    path: str

    def describe(self) -> str:
        """Return text that names the file."""
        return f"create {self.path}"

    def apply(self, kernel: "Kernel") -> None:
        """Create the file. Its directory must exist."""
        kernel.write_file(self.path, "")


class MountFile(Step):
    """Bind-mount a file over an existing file: mount(2) with MS_BIND."""

    source: str
    target: str

    def describe(self) -> str:
        """Return text that names both files."""
        return f"mount {self.source} over {self.target}"

    def apply(self, kernel: "Kernel") -> None:
        """Mount the file."""
        kernel.mount(self.source, self.target, "", MS_BIND, "")


class AddLayer(Step):
    """Mount a read-only overlayfs over a directory that adds the files of `layer` to it."""

    layer: str
    directory: str

    def describe(self) -> str:
        """Return text that names both directories."""
        return f"mount {self.directory} anew with what is in {self.layer}"

    def apply(self, kernel: "Kernel") -> None:
        """Mount the overlayfs."""
        data = f"lowerdir={self.layer}:{self.directory}"
        kernel.mount("initrd", self.directory, "overlay", MS_RDONLY, data)


def write_resolver_settings(settings: ResolverSettings, kernel: "Kernel", log: "Log") -> None:
    """Write the settings into the new root, which is mounted at / now.

    Logs a warning when the root has no place for them. Raises BootError for unexpected errors.
    """
    if not settings.servers:
        return
    target = kernel.resolve(RESOLV_CONF)
    if target.startswith("/run/"):
        execute(_plan_below_run(settings, target), kernel, log)
        return
    execute((WriteFile(_GENERATED, settings.resolv_conf()),), kernel, log)
    if kernel.exists(target) or not _try_step(CreateFile(target), _READ_ONLY, kernel, log):
        execute((MountFile(_GENERATED, target),), kernel, log)
    else:
        _overlay_directory(settings, target, kernel, log)


def _plan_below_run(settings: ResolverSettings, target: str) -> tuple[Step, ...]:
    """Return the steps for a root whose /etc/resolv.conf is a link to `target` below /run."""
    steps: tuple[Step, ...] = (WriteFile(target, settings.resolv_conf()),)
    if target.startswith(_RESOLVED):
        steps += (WriteFile(_RESOLVED_DROP_IN, settings.resolved_conf()),)
    return steps


def _overlay_directory(
    settings: ResolverSettings, target: str, kernel: "Kernel", log: "Log"
) -> None:
    """Add the file `target` to its read-only directory; log a warning when that is impossible."""
    directory, name = os.path.split(target)
    execute((WriteFile(f"{_LAYER}/{name}", settings.resolv_conf()),), kernel, log)
    error_text = _try_step(AddLayer(_LAYER, directory), _NO_OVERLAY, kernel, log)
    if error_text:
        log.warn(
            f"names will not be resolved: there is no {target}, the root is read-only, and "
            f"{directory} cannot be overlaid ({error_text})\n"
            f"try: create an empty {target} in the root, or add the module overlay to the image"
        )


def _try_step(step: Step, errnos: tuple[int, ...], kernel: "Kernel", log: "Log") -> str:
    """Apply a step; return the error's text when it fails with one of `errnos`, else empty.

    Raises BootError for all other errors.
    """
    try:
        execute((step,), kernel, log)
    except BootError as error:
        cause = error.__cause__
        if not isinstance(cause, OSError) or cause.errno not in errnos:
            raise
        return error.why
    return ""
