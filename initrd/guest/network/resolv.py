"""Makes name resolution work in a root that is read-only, and changes nothing in one that is not.

`/etc/resolv.conf` may be a file, a link into /run that leads nowhere yet, or not there at all:

- a link to below /run: the file is written where it leads;
- a file: ours, in /run, is mounted over it, and what is in the root stays as it is;
- nothing, in a root that can be written: an empty file is created and ours is mounted over it;
- nothing, in a read-only root: /etc is mounted anew, read-only, with our file added (overlayfs).
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
_OURS = "/run/initrd/resolv.conf"
_LAYER = "/run/initrd/layer"  # what an overlay adds to a directory of the root
# systemd-resolved replaces the file below /run by its own, and then must know whom to ask.
_RESOLVED, _RESOLVED_DROP_IN = "/run/systemd/resolve/", "/run/systemd/resolved.conf.d/initrd.conf"
# What a root says that cannot be written: EROFS, or one of the others in place of virtiofsd.
# ENOENT: the link leads to a directory that is not there.
_READ_ONLY = (errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOENT)
# No overlayfs in this kernel; not over this file system; no such directory.
_NO_OVERLAY = (errno.ENODEV, errno.EINVAL, errno.ENOENT, errno.ENOTDIR)


class ResolverSettings(Record):
    """Who resolves names, and what this machine is called."""

    servers: tuple[str, ...] = ()
    domain: str = ""
    hostname: str = ""

    def resolv_conf(self) -> str:
        """Return resolv.conf(5)."""
        search = f"search {self.domain}\n" if self.domain else ""
        return search + "".join(f"nameserver {server}\n" for server in self.servers)

    def resolved_conf(self) -> str:
        """Return a drop-in of resolved.conf(5)."""
        domains = f"Domains={self.domain}\n" if self.domain else ""
        return f"[Resolve]\nDNS={' '.join(self.servers)}\n{domains}"


class WriteFile(Step):
    """Write a file in /run, with the directories above it."""

    path: str
    text: str

    def describe(self) -> str:
        """Name the file."""
        return f"write {self.path}"

    def apply(self, kernel: "Kernel") -> None:
        """Write it."""
        kernel.make_directory(os.path.dirname(self.path))
        kernel.write_file(self.path, self.text)


class CreateFile(Step):
    """Create an empty file in the root."""

    path: str

    def describe(self) -> str:
        """Name the file."""
        return f"create {self.path}"

    def apply(self, kernel: "Kernel") -> None:
        """Create it. Its directory must exist."""
        kernel.write_file(self.path, "")


class MountFile(Step):
    """Mount a file over another one, which must exist: mount(2) with MS_BIND."""

    source: str
    target: str

    def describe(self) -> str:
        """Name both files."""
        return f"mount {self.source} over {self.target}"

    def apply(self, kernel: "Kernel") -> None:
        """Mount it."""
        kernel.mount(self.source, self.target, "", MS_BIND, "")


class AddLayer(Step):
    """Mount a directory over itself, read-only, with the files of another one added: overlayfs."""

    layer: str
    directory: str

    def describe(self) -> str:
        """Name both directories."""
        return f"mount {self.directory} anew with what is in {self.layer}"

    def apply(self, kernel: "Kernel") -> None:
        """Mount it."""
        data = f"lowerdir={self.layer}:{self.directory}"
        kernel.mount("initrd", self.directory, "overlay", MS_RDONLY, data)


def write_resolver_settings(names: ResolverSettings, kernel: "Kernel", log: "Log") -> None:
    """Make the new root, which is / now, resolve names by `names`. A root without way is warned of.

    Raises BootError.
    """
    if not names.servers:
        return
    target = kernel.resolve(RESOLV_CONF)
    if target.startswith("/run/"):
        execute(_below_run(names, target), kernel, log)
        return
    execute((WriteFile(_OURS, names.resolv_conf()),), kernel, log)
    if kernel.exists(target) or not _refusal(CreateFile(target), _READ_ONLY, kernel, log):
        execute((MountFile(_OURS, target),), kernel, log)
    else:
        _add_to_directory(names, target, kernel, log)


def _below_run(names: ResolverSettings, target: str) -> tuple[Step, ...]:
    steps: tuple[Step, ...] = (WriteFile(target, names.resolv_conf()),)
    if target.startswith(_RESOLVED):
        steps += (WriteFile(_RESOLVED_DROP_IN, names.resolved_conf()),)
    return steps


def _add_to_directory(names: ResolverSettings, target: str, kernel: "Kernel", log: "Log") -> None:
    """Show our file in a directory that cannot be written, or say that it cannot be done."""
    directory, name = os.path.split(target)
    execute((WriteFile(f"{_LAYER}/{name}", names.resolv_conf()),), kernel, log)
    why_not = _refusal(AddLayer(_LAYER, directory), _NO_OVERLAY, kernel, log)
    if why_not:
        log.warn(
            f"names will not be resolved: there is no {target}, the root is read-only, and "
            f"{directory} cannot be overlaid ({why_not})\n"
            f"try: create an empty {target} in the root, or add the module overlay to the image"
        )


def _refusal(step: Step, errnos: tuple[int, ...], kernel: "Kernel", log: "Log") -> str:
    """Take a step; return why it was refused where that is one of `errnos`. Raises BootError."""
    try:
        execute((step,), kernel, log)
    except BootError as error:
        cause = error.__cause__
        if not isinstance(cause, OSError) or cause.errno not in errnos:
            raise
        return error.why
    return ""
