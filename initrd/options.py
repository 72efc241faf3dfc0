"""What a boot can be asked for: the options, their defaults and their choices. Pure.

Both sides share it, and /init imports it in every boot: `initrd.cmdline` parses these from the
kernel command line, `initrd.cmdline` writes them there.
"""

from initrd.record import Record

DEFAULT_TAG = "rootfs"
DEFAULT_INIT = "/bin/sh"
DEFAULT_TIMEOUT = 10.0  # seconds
DEFAULT_OVERLAY_SIZE = "50%"
COMMAND_FILE = "/initrd.command"  # in the initramfs: see initrd.command
ON_FAILURE = ("poweroff", "panic", "shell")
UNIONS = ("overlay", "fuse-overlayfs", "unionfs-fuse")
DEVICE_PREFIXES = ("/dev/", "UUID=", "LABEL=", "PARTUUID=")
# Words of ours that the kernel does not know: it hands them to init as environment variables.
OUR_WORDS = ("rootfs", "rootfstype", "rootflags", "mount", "mount-ro", "overlay_root", "ip")


class CmdlineError(ValueError):
    """An option that cannot be understood. The text names it, says why and what to write."""


class Root(Record):
    """What becomes `/`: `kind` is `virtiofs` (source is a tag), `block` or `tmpfs`."""

    kind: str = "virtiofs"
    source: str = DEFAULT_TAG
    fstype: str = ""  # empty: probe (block devices)
    flags: str = ""  # `rootflags=`, handed to mount(2)
    writable: bool = False


class Share(Record):
    """A further virtiofs tag. Without a path it is mounted at `/run/mnt/TAG`."""

    tag: str
    path: str = ""  # absolute, in the new root
    writable: bool = True

    @property
    def target(self) -> str:
        """Where the share is mounted, as the target program sees it."""
        return self.path or f"/run/mnt/{self.tag}"


class BootOptions(Record):
    """Everything `/init` does that depends on the kernel command line."""

    root: Root = Root()
    shares: tuple[Share, ...] = ()
    init: str = DEFAULT_INIT
    debug: bool = False
    overlay: str = ""  # empty: none; `ram`; or the name of a block device below /dev
    overlay_size: str = DEFAULT_OVERLAY_SIZE
    union: str = ""  # empty: not asked for, which means the kernel's overlayfs
    bundles: tuple[str, ...] = ()
    ip: tuple[str, ...] = ()  # each in the syntax of the kernel's nfsroot.rst
    timeout: float = DEFAULT_TIMEOUT  # seconds
    onfail: str = ON_FAILURE[0]
    module_params: tuple[tuple[str, str], ...] = ()  # (module, "param=value")
