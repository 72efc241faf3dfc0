"""The steps a boot is made of: frozen values that can describe and apply themselves.

Plans (`initrd.guest.plan`) are tuples of these, decided without touching anything;
`initrd.guest.execute` applies them one by one. A step's description is what is logged before it is
done, and the subject of the message when it fails.
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
        """Say what the step does, as the object of "cannot …"."""
        raise NotImplementedError

    def __str__(self) -> str:
        return self.describe()

    def apply(self, kernel: "Kernel") -> None:
        """Do it. Raises OSError."""
        raise NotImplementedError

    def hint(self, error: OSError) -> str:
        """Say what the user may try after `error`; empty when there is nothing to say."""
        return ""


class Mount(Step):
    """Mount a file system, making the directory it goes on first: mount(2)."""

    source: str
    target: str
    fstype: str
    flags: int = 0
    data: str = ""

    def describe(self) -> str:
        """Name the source, the type, the target and the options."""
        words = [name for flag, name in _FLAG_NAMES if self.flags & flag]
        words += [self.data] if self.data else []
        options = f" ({','.join(words)})" if words else ""
        return f"mount {self.source} ({self.fstype or 'no type'}) on {self.target}{options}"

    def apply(self, kernel: "Kernel") -> None:
        """Make the directory where it is missing, and mount."""
        kernel.make_directory(self.target)
        kernel.mount(self.source, self.target, self.fstype, self.flags, self.data)


class Node(Step):
    """Create a character device that devtmpfs may lack: mknod(2). What exists is left alone."""

    path: str
    mode: int
    major: int
    minor: int

    def describe(self) -> str:
        """Name the node and its numbers."""
        return f"create {self.path} (c {self.major}:{self.minor} {self.mode:04o})"

    def apply(self, kernel: "Kernel") -> None:
        """Make the node, with its directory and exactly this mode, unless the name is taken."""
        if not kernel.exists(self.path):
            kernel.make_directory(self.path.rpartition("/")[0])
            kernel.make_node(self.path, self.mode, self.major, self.minor)


class Symlink(Step):
    """Create a symbolic link: symlink(2). What exists is left alone."""

    path: str
    to: str

    def describe(self) -> str:
        """Name the link and where it leads."""
        return f"link {self.path} to {self.to}"

    def apply(self, kernel: "Kernel") -> None:
        """Make the link unless the name is taken."""
        if not kernel.exists(self.path):
            kernel.symlink(self.to, self.path)


class Move(Step):
    """Move a mount to another place: mount(2) with MS_MOVE."""

    source: str
    target: str

    def describe(self) -> str:
        """Name both places."""
        return f"move the mount {self.source} to {self.target}"

    def apply(self, kernel: "Kernel") -> None:
        """Move it. The target must exist."""
        kernel.mount(self.source, self.target, "", MS_MOVE, "")


class Unmount(Step):
    """Unmount what cannot be moved, lazily: something below it may be mounted too."""

    target: str
    why: str

    def describe(self) -> str:
        """Name the mount and the reason it has to go."""
        return f"unmount {self.target}: {self.why}"

    def apply(self, kernel: "Kernel") -> None:
        """Detach it: umount2(2) with MNT_DETACH."""
        kernel.unmount(self.target, MNT_DETACH)
