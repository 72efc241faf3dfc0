"""Steps for roots and layers: create and remove directories and files; mount options."""

from initrd.guest._syscalls import MS_NOATIME, MS_NODEV, MS_NOEXEC, MS_NOSUID, MS_PRIVATE
from initrd.guest.steps import Step

TYPE_CHECKING = False
if TYPE_CHECKING:
    from initrd.guest.kernel import Kernel

MS_SYNCHRONOUS, MS_DIRSYNC, MS_NODIRATIME = 1 << 4, 1 << 7, 1 << 11
MS_RELATIME, MS_STRICTATIME, MS_LAZYTIME = 1 << 21, 1 << 24, 1 << 25
_FLAGS = {
    "defaults": 0,
    "dirsync": MS_DIRSYNC,
    "lazytime": MS_LAZYTIME,
    "noatime": MS_NOATIME,
    "nodev": MS_NODEV,
    "nodiratime": MS_NODIRATIME,
    "noexec": MS_NOEXEC,
    "nosuid": MS_NOSUID,
    "relatime": MS_RELATIME,
    "strictatime": MS_STRICTATIME,
    "sync": MS_SYNCHRONOUS,
}


class CreateDirectory(Step):
    """Create a directory with mode 0755, parents included. An existing one is not changed."""

    path: str

    def describe(self) -> str:
        """Return the description, with the path."""
        return f"create the directory {self.path}"

    def apply(self, kernel: "Kernel") -> None:
        """Create the directory: mkdir(2)."""
        kernel.make_directory(self.path)


class CreateDirectoryLike(Step):
    """Create a directory with the owner and mode of `model`. An existing one is not changed."""

    path: str
    model: str

    def describe(self) -> str:
        """Return the description, with both paths."""
        return f"create the directory {self.path} with owner and mode of {self.model}"

    def apply(self, kernel: "Kernel") -> None:
        """Create the directory: mkdir(2), chown(2), chmod(2)."""
        if not kernel.exists(self.path):
            kernel.make_directory(self.path)
            kernel.copy_access(self.model, self.path)


class CreateFifo(Step):
    """Create a named pipe with mode 0600."""

    path: str

    def describe(self) -> str:
        """Return the description, with the path."""
        return f"create the named pipe {self.path}"

    def apply(self, kernel: "Kernel") -> None:
        """Create the named pipe: mkfifo(3)."""
        kernel.make_fifo(self.path)


class WriteFile(Step):
    """Write a small file."""

    path: str
    text: str

    def describe(self) -> str:
        """Return the description, with the path and the text."""
        return f"write {self.text.strip()} to {self.path}"

    def apply(self, kernel: "Kernel") -> None:
        """Write the file."""
        kernel.write_file(self.path, self.text)


class RemoveDirectory(Step):
    """Remove an empty directory that was created for a mount."""

    path: str

    def describe(self) -> str:
        """Return the description, with the path."""
        return f"remove the directory {self.path}"

    def apply(self, kernel: "Kernel") -> None:
        """Remove the directory: rmdir(2)."""
        kernel.remove_directory(self.path)


class MakePrivate(Step):
    """Make a mount private: mounts do not propagate out of it or into it, mount_namespaces(7)."""

    target: str

    def describe(self) -> str:
        """Return the description, with the path."""
        return f"make the mount {self.target} private"

    def apply(self, kernel: "Kernel") -> None:
        """Set MS_PRIVATE in a separate call: mount(2) ignores it together with MS_BIND."""
        kernel.mount("none", self.target, "", MS_PRIVATE, "")


def split_options(text: str) -> tuple[int, str]:
    """Split mount options into the flags of mount(2) and the data for the file system."""
    flags, data = 0, []
    for option in text.split(","):
        if option in _FLAGS:
            flags |= _FLAGS[option]
        elif option:
            data.append(option)
    return flags, ",".join(data)
