"""The steps of a boot: frozen records, each with a description and a method that does the step.

A plan (`initrd.guest.plan`) is a tuple of steps, and making it changes nothing.
`initrd.guest.execute` applies the steps one by one. It logs the description of a step before it
applies the step; when the step fails, the error message begins with the description.
"""

from initrd.guest._syscalls import (
    MNT_DETACH,
    MS_BIND,
    MS_MOVE,
    MS_NOATIME,
    MS_NODEV,
    MS_NOEXEC,
    MS_NOSUID,
    MS_RDONLY,
    MS_REMOUNT,
)
from initrd.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from initrd.guest.kernel import Kernel

_FLAG_NAMES = (
    (MS_RDONLY, "ro"),
    (MS_NOSUID, "nosuid"),
    (MS_NODEV, "nodev"),
    (MS_NOEXEC, "noexec"),
    (MS_REMOUNT, "remount"),
    (MS_NOATIME, "noatime"),
    (MS_BIND, "bind"),
)


class Step(Record):
    """One change to the system."""

    def describe(self) -> str:
        """Return what the step does, as a phrase that can follow "cannot"."""
        raise NotImplementedError

    def __str__(self) -> str:
        return self.describe()

    def apply(self, kernel: "Kernel") -> None:
        """Do the step. Raises OSError."""
        raise NotImplementedError

    def hint(self, error: OSError) -> str:
        """Return what the user may try after `error`; empty for no hint."""
        return ""


class Mount(Step):
    """Mount a file system, after creating its mount point: mount(2)."""

    source: str
    target: str
    fstype: str
    flags: int = 0
    data: str = ""

    def describe(self) -> str:
        """Return source, type, target and options."""
        names = [name for flag, name in _FLAG_NAMES if self.flags & flag]
        names += [self.data] if self.data else []
        options = f" ({','.join(names)})" if names else ""
        return f"mount {self.source} ({self.fstype or 'no type'}) on {self.target}{options}"

    def apply(self, kernel: "Kernel") -> None:
        """Create the mount point if it is missing, and mount the file system."""
        kernel.make_directory(self.target)
        kernel.mount(self.source, self.target, self.fstype, self.flags, self.data)


class Node(Step):
    """Create a character device, unless the path exists: mknod(2)."""

    path: str
    mode: int
    major: int
    minor: int

    def describe(self) -> str:
        """Return path, device numbers and mode."""
        return f"create {self.path} (c {self.major}:{self.minor} {self.mode:04o})"

    def apply(self, kernel: "Kernel") -> None:
        """Create the node with exactly this mode, and its directory, unless the path exists."""
        if not kernel.exists(self.path):
            kernel.make_directory(self.path.rpartition("/")[0])
            kernel.make_node(self.path, self.mode, self.major, self.minor)


class Symlink(Step):
    """Create a symbolic link, unless the path exists: symlink(2)."""

    path: str
    to: str

    def describe(self) -> str:
        """Return path and target of the link."""
        return f"link {self.path} to {self.to}"

    def apply(self, kernel: "Kernel") -> None:
        """Create the link unless the path exists."""
        if not kernel.exists(self.path):
            kernel.symlink(self.to, self.path)


class Move(Step):
    """Move a mount to another mount point: mount(2) with MS_MOVE."""

    source: str
    target: str

    def describe(self) -> str:
        """Return both mount points."""
        return f"move the mount {self.source} to {self.target}"

    def apply(self, kernel: "Kernel") -> None:
        """Move the mount. The target must exist."""
        kernel.mount(self.source, self.target, "", MS_MOVE, "")


class Unmount(Step):
    """Unmount lazily, because other file systems may be mounted below: umount2(2), MNT_DETACH."""

    target: str
    why: str

    def describe(self) -> str:
        """Return the mount point and the reason."""
        return f"unmount {self.target}: {self.why}"

    def apply(self, kernel: "Kernel") -> None:
        """Detach the mount."""
        kernel.unmount(self.target, MNT_DETACH)
