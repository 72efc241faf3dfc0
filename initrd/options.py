"""The options of a boot: their types, defaults and choices. Pure.

Both sides share these types: `initrd.cmdline` parses the kernel command line into them and formats
them as one. Each default is written here and nowhere else.
"""

from initrd.record import Record

COMMAND_FILE = "/initrd.command"  # in the initramfs: see initrd.command
OVERLAY_IN_MEMORY = "ram"  # the value of overlay_root= for a tmpfs
ON_FAILURE = ("poweroff", "panic", "shell")
UNIONS = ("overlay", "fuse-overlayfs", "unionfs-fuse")
DEVICE_PREFIXES = ("/dev/", "UUID=", "LABEL=", "PARTUUID=")
# Options without a dot that the kernel does not know: it puts them into init's environment.
ENVIRONMENT_WORDS = (
    "rootfs",
    "rootfstype",
    "rootflags",
    "mount",
    "mount-ro",
    "overlay_root",
    "ip",
)


class CmdlineError(ValueError):
    """An invalid option. The text has the option, the reason and what to write."""


class RootKind(Record):
    """A kind of root directory. CONTRIBUTING.md lists the tables that have an entry for each."""

    name: str
    option: str  # the kernel option that names its source
    is_share: bool = False  # the source is a virtiofs tag
    writable: bool = False  # without `ro` and `rw` on the kernel command line


VIRTIOFS = RootKind("virtiofs", "rootfs", is_share=True)
BLOCK = RootKind("block", "root")
TMPFS = RootKind("tmpfs", "root", writable=True)


class Root(Record):
    """The root directory: its kind, its source and how it is mounted."""

    kind: RootKind = VIRTIOFS
    source: str = "rootfs"  # of VIRTIOFS the tag; of BLOCK the device; of TMPFS `tmpfs`
    fstype: str = ""  # of BLOCK; empty: probe
    flags: str = ""  # `rootflags=`, handed to mount(2)
    writable: bool = False


class Share(Record):
    """A directory of the host that the guest mounts by its virtiofs tag."""

    tag: str
    path: str = ""  # absolute, in the new root; empty: /run/mnt/TAG
    writable: bool = True
    source: str = ""  # the directory on the host; empty in the guest

    @property
    def target(self) -> str:
        """The mount point, as a path in the new root."""
        return self.path or f"/run/mnt/{self.tag}"


class BootOptions(Record):
    """The options of `/init` on the kernel command line."""

    root: Root = Root()
    shares: tuple[Share, ...] = ()
    init: str = "/bin/sh"
    debug: bool = False
    overlay: str = ""  # empty: none; OVERLAY_IN_MEMORY; or the name of a block device below /dev
    overlay_size: str = "50%"  # of a tmpfs, as its option size= takes it
    union: str = ""  # one of UNIONS; empty: not given; the kernel's overlayfs is used
    bundles: tuple[str, ...] = ()  # directories of container bundles, absolute
    modules: tuple[str, ...] = ()  # tags: the directory lib/modules/VERSION, and its `build`
    ip: tuple[str, ...] = ()  # each in the syntax of the kernel's nfsroot.rst
    timeout: float = 10.0  # seconds to wait for a tag or a device
    onfail: str = ON_FAILURE[0]
    module_params: tuple[tuple[str, str], ...] = ()  # (module, "param=value")
    warnings: tuple[str, ...] = ()  # texts about words that are not used
