"""What a user can ask for: a directory to boot, and the machine to boot it in."""

from initrd.command import Command
from initrd.record import Record

ROOT_TAG = "rootfs"
OVERLAY_IN_MEMORY = "ram"


class Share(Record):
    """A further directory for the guest."""

    tag: str
    path: str
    destination: str = ""  # absolute path in the guest; empty: /run/mnt/TAG
    writable: bool = True


class Machine(Record):
    """A virtual machine that boots a directory."""

    root: str
    init: str = "/bin/sh"  # a bare name is looked up in the root
    arguments: tuple[str, ...] = ()
    command: Command | None = None  # to run below /init; then `init` is not looked at
    shares: tuple[Share, ...] = ()
    writable: bool = False  # the root, through to the host
    overlay: str = ""  # empty: none; `ram`; or the file that keeps what is written
    memory: int = 1 << 30  # bytes
    cpus: int = 1
    accel: str = "auto"
    machine: str = ""  # value of QEMU's -machine; empty: ours
    arch: str = ""  # empty: the host's
    kernel: str = ""  # empty: the root's newest
    modules: str = ""  # empty: those of the kernel
    module: tuple[str, ...] = ()  # further modules to load
    init_program: str = ""  # the `/init` of the image; empty: the one that was built or installed
    append: tuple[str, ...] = ()  # to the kernel command line
    network: bool = False
    debug: bool = False  # /init says every step
    quiet: bool = True  # the kernel says nothing unless something is wrong
    qemu: str = ""
    virtiofsd: str = ""
    qemu_arguments: tuple[str, ...] = ()
