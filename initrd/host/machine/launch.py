"""From what a user asks for to what is started: finds the files, makes the image, decides.

Nothing is left by it but an entry in the cache, and one open descriptor: the image.
"""

import os
from functools import partial
from shlex import join

from initrd.cmdline import render
from initrd.errors import HostError
from initrd.host.image import modules
from initrd.host.image.build import COMMAND_PORTS, BootImage, open_boot_image
from initrd.host.machine import locate
from initrd.host.machine.config import OVERLAY_IN_MEMORY, ROOT_TAG, Machine
from initrd.host.machine.rootfs import (
    Kernel,
    check_readable,
    find_kernel,
    module_directory,
    release_of,
)
from initrd.host.qemu import argv
from initrd.host.qemu.accel import choose_accelerator, why_no_kvm
from initrd.host.qemu.arch import Arch, find_arch
from initrd.host.qemu.argv import Boot, Console, Disk, Filesystem, Hardware, Setup
from initrd.host.qemu.pvh import PvhKernel, find_pvh_kernel
from initrd.host.virtiofsd import program
from initrd.host.virtiofsd.program import Directory, Virtiofsd, identify
from initrd.options import BootOptions, CmdlineError, Root, Share
from initrd.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

_WITHOUT_LIMITS = "chrootvm ROOTFS -- COMMAND, which does not use the kernel's command line"
_KERNEL_WORDS = (
    "panic=-1",  # a panic ends the machine, instead of standing still for ever
    "cryptomgr.notests",  # the kernel's tests of its own ciphers: a fifth of an emulated boot
)


class Launch(Record):
    """Everything that is needed to start a machine."""

    qemu: str
    virtiofsd: Virtiofsd
    hardware: Hardware
    kernel: str
    image: BootImage
    cmdline: str
    directories: tuple[tuple[str, Directory], ...] = ()  # by tag
    disks: tuple[str, ...] = ()
    ports: tuple[str, ...] = ()  # the names of a command's
    logs: str = ""  # the directory in which the console of a failed boot is kept
    network: bool = False
    extra: tuple[str, ...] = ()
    direct: PvhKernel = PvhKernel()

    def files(self) -> tuple[int, ...]:
        """Return the descriptors that QEMU inherits, and that are to be closed afterwards."""
        return tuple(fd for fd in (self.image.descriptor, self.direct.elf) if fd >= 0)

    def setup(
        self, console: Console, shares: tuple[Filesystem, ...], initrd: str, kernel: str = ""
    ) -> Setup:
        """Return what QEMU is told, with these connections and the files at these paths."""
        return Setup(
            program=self.qemu,
            hardware=self.hardware,
            boot=Boot(kernel or self.kernel, initrd, self.cmdline, firmware=self.direct.firmware),
            console=console,
            filesystems=shares,
            disks=tuple(Disk(path) for path in self.disks),
            network=self.network,
            extra=self.extra,
        )


def plan_launch(machine: Machine, environment: "Mapping[str, str]") -> Launch:
    """Return how to start `machine` here. Raises HostError for what cannot be had."""
    check_machine(machine)
    arch = find_arch(machine.arch)
    cache = locate.cache_directory(environment)
    kernel = select_kernel(machine)
    qemu = find_qemu(machine, arch, environment)
    accelerator = choose_accelerator(machine.accel, arch, partial(why_no_kvm, cache))
    cmdline = command_line(machine, arch, accelerator)
    hardware = Hardware(arch, accelerator, machine.memory, machine.cpus, machine.machine)
    return Launch(
        qemu=qemu,
        virtiofsd=identify(locate.find_virtiofsd(machine.virtiofsd, environment), cache),
        hardware=hardware,
        kernel=kernel.image,
        image=open_boot_image(
            locate.find_init(machine.init_program, environment),
            kernel.modules,
            module_requirements(machine, cmdline),
            machine.command,
            cache,
        ),
        cmdline=cmdline,
        directories=directories(machine),
        disks=_disks(machine),
        ports=machine.command.ports if machine.command else (),
        logs=os.path.join(locate.state_directory(environment), "failed-boots"),
        network=machine.network,
        extra=machine.qemu_arguments,
        direct=find_pvh_kernel(hardware, kernel.image, qemu, cache),
    )


def check_machine(machine: Machine) -> None:
    """Raise HostError for wishes that contradict each other or cannot be understood."""
    tags = [ROOT_TAG, *(share.tag for share in machine.shares)]
    for share in machine.shares:
        if tags.count(share.tag) > 1:
            raise HostError(f"cannot share two directories as {share.tag}", "a tag is for one")
    if machine.writable and machine.overlay:
        raise HostError(
            "cannot make the root writable twice",
            "--rw writes through to the host, --overlay keeps that from happening",
            "one of the two",
        )


def directories(machine: Machine) -> tuple[tuple[str, Directory], ...]:
    """Return what is shared, by tag: the root first."""
    root = Directory(os.path.realpath(machine.root), machine.writable)
    shares = (
        (share.tag, Directory(os.path.realpath(share.path), share.writable))
        for share in machine.shares
    )
    return ((ROOT_TAG, root), *shares)


def command_line(machine: Machine, arch: Arch, accelerator: str) -> str:
    """Return the kernel command line. Raises HostError for what none can hold."""
    overlay = machine.overlay
    options = BootOptions(
        root=Root(source=ROOT_TAG, writable=machine.writable),
        shares=tuple(
            Share(share.tag, share.destination, share.writable) for share in machine.shares
        ),
        init=locate.find_target(machine.root, machine.init),
        debug=machine.debug,
        overlay=overlay if overlay in ("", OVERLAY_IN_MEMORY) else "vda",
        ip=("dhcp",) if machine.network else (),
    )
    if "--" in machine.arguments:  # lib/cmdline.c stops at a second one, and drops what follows
        why = "the kernel does not hand the argument -- to init"
        raise HostError("cannot write the kernel command line", why, _WITHOUT_LIMITS)
    emulated = accelerator == "tcg" and machine.cpus == 1 and not machine.machine
    words = [f"console={arch.console}", *_KERNEL_WORDS, *arch.kernel_words(emulated=emulated)]
    words += ["quiet"] if machine.quiet else []
    try:
        text = " ".join([*words, *machine.append, render(options, machine.arguments)])
    except CmdlineError as error:
        raise HostError("cannot write the kernel command line", str(error)) from error
    size = len(text.encode(errors="surrogateescape"))
    if size > arch.longest_cmdline:
        raise HostError(
            "cannot write the kernel command line",
            f"it has {size} bytes, and {arch.name} kernels read {arch.longest_cmdline}",
            f"fewer or shorter arguments, or {_WITHOUT_LIMITS}",
        )
    return text


def select_kernel(machine: Machine) -> Kernel:
    """Return the kernel to boot, and its modules. Raises HostError."""
    if not machine.kernel:
        found = find_kernel(machine.root)
        check_readable(found.image)
        return found.replace(modules=machine.modules) if machine.modules else found
    image = os.path.abspath(machine.kernel)
    if not os.path.isfile(image):
        raise HostError(f"cannot use {machine.kernel} as the kernel", "there is no such file")
    check_readable(image)
    release = release_of(image)
    return Kernel(release, image, machine.modules or module_directory(machine.root, release))


def find_qemu(machine: Machine, arch: Arch, environment: "Mapping[str, str]") -> str:
    """Return the path of the QEMU to use. Raises HostError."""
    hint = f"install it (package {arch.package}), or --qemu BIN"
    return locate.find_program(machine.qemu or arch.qemu, environment, hint)


def module_requirements(machine: Machine, cmdline: str) -> tuple[modules.Requirement, ...]:
    """Return what the kernel's modules are needed for. Raises HostError."""
    try:
        booting = modules.requirements_of_cmdline(cmdline)
    except CmdlineError as error:  # in what the user has added
        raise HostError("cannot use the kernel command line", str(error)) from error
    asked = tuple(modules.module_requirement(name) for name in machine.module)
    return (*booting, *asked, *((COMMAND_PORTS,) if machine.command else ()))


def _disks(machine: Machine) -> tuple[str, ...]:
    if machine.overlay in ("", OVERLAY_IN_MEMORY):
        return ()
    return (os.path.abspath(machine.overlay),)


def format_commands(launch: Launch) -> str:
    """Return one line for each program: virtiofsd first, they run beside QEMU."""
    lines = []
    for tag, directory in launch.directories:
        source = directory.path
        words = program.command(launch.virtiofsd, directory, f"--socket-path={tag}.sock", source)
        if launch.virtiofsd.family == "c" and not directory.writable:
            lines.append(f"# in a mount namespace of its own, with {source} read-only:")
        lines.append(f"{join(words)} &")
    if launch.ports:
        lines.append("# with COMMAND in a small archive behind the image:")
    return "\n".join([*lines, join(_qemu(launch))])


def _qemu(launch: Launch) -> tuple[str, ...]:
    shares = (argv.Filesystem(tag, argv.path(f"{tag}.sock")) for tag, _ in launch.directories)
    console = argv.Console("stdio,signal=off", menu=True)
    setup = launch.setup(
        console, tuple(shares), initrd=launch.image.path, kernel=launch.direct.path
    )
    ports = (
        argv.Port(name, f"{argv.path(f'{name}.sock')},server=on,wait=off") for name in launch.ports
    )
    return argv.command(setup.replace(ports=tuple(ports)))
