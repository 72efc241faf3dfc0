"""Plan a launch: from the options of a machine to the files, the image and the commands.

Planning adds entries to the cache, and opens the files of the QEMU set-up; it starts no machine.
"""

import os
from functools import partial

from initrd.cmdline import parse
from initrd.command import Command, Commands
from initrd.host.image import modules
from initrd.host.image.build import COMMAND_PORTS, open_boot_image
from initrd.host.machine import gdb, guest_arch, guest_modules, locate
from initrd.host.machine.cmdline import command_line, template_command_line
from initrd.host.machine.config import Machine
from initrd.host.machine.devices import NETWORK_WITH_HOST
from initrd.host.machine.rootfs import (
    Kernel,
    find_built_kernel,
    find_kernel,
    find_module_directory,
    identify_kernel,
    open_kernel,
    read_release,
)
from initrd.host.machine.sharing import Sharing, plan_sharing
from initrd.host.qemu import argv
from initrd.host.qemu.accel import choose_accelerator, find_kvm_problem
from initrd.host.qemu.arch import Arch
from initrd.host.qemu.argv import Connections, Hardware, Setup
from initrd.host.qemu.pvh import find_pvh_kernel
from initrd.host.qemu.seccomp import has_sandbox
from initrd.host.system.cached import Cache
from initrd.host.system.files import OpenFile
from initrd.host.system.hosterror import HostError
from initrd.host.system.printable import join_command
from initrd.host.system.safe_path import UnsafeFolder
from initrd.host.virtiofsd import program
from initrd.host.virtiofsd.killpriv import parse_version
from initrd.host.virtiofsd.program import Virtiofsd, identify, query
from initrd.options import CmdlineError, Share
from initrd.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping


_ALL = {"0.0.0.0"}  # noqa: S104 - the address that stands for all of the host
CACHE_HINT = "another XDG_CACHE_HOME; with sudo: sudo -H"


class Launch(Record):
    """All that is needed to start a machine."""

    setup: Setup  # of QEMU; its shares have absolute paths, the root first
    virtiofsd: Virtiofsd
    kernel: str  # path of the image; QEMU may start the uncompressed kernel in it instead
    # To run as a child of /init; Commands: several, while it runs; None: INIT is PID 1.
    command: Command | Commands | None = None
    logs: str = ""  # the directory in which the console of a failed boot is kept
    gdb: int | None = None  # as Machine.gdb
    warm: "Warm | None" = None  # how to start from a template; None: boot
    remarks: tuple[str, ...] = ()  # for --verbose and --dry-run
    warnings: tuple[str, ...] = ()  # for standard error
    release: str = ""  # of the kernel, as `uname -r` prints it; empty: unknown

    @property
    def is_uncompressed(self) -> bool:
        """Whether QEMU starts the uncompressed kernel in place of the image."""
        return self.setup.kernel.path != self.kernel


class Warm(Record):
    """What a start from a template needs besides the launch."""

    cmdline: str  # kernel command line of the template
    release: str  # of the kernel; empty: unknown
    folder: str  # of the user's templates
    limit: int  # bytes of all templates in it


def plan_launch(machine: Machine, environment: "Mapping[str, str]") -> Launch:
    """Return how to start `machine` on this host. Raises HostError for anything that is missing."""
    check_machine(machine)
    with Cache(locate.cache_directory(environment)) as cache:
        return _plan(machine, environment, cache)


def _plan(machine: Machine, environment: "Mapping[str, str]", cache: Cache) -> Launch:
    kernel = select_kernel(machine)
    arch = select_arch(machine, kernel)
    qemu = find_qemu(machine, arch, environment)
    accelerator = choose_accelerator(machine.accel, arch, partial(find_kvm_problem, cache))
    virtiofsd = find_virtiofsd(machine, environment, cache)
    found = guest_modules.find_guest_modules(machine, kernel, virtiofsd, environment)
    of_guest = guest_modules.stage(found, kernel.release, cache.path, environment)
    cmdline = command_line(machine, arch, accelerator, of_guest.shares)
    hardware = Hardware(arch, accelerator, machine.memory, machine.cpus, machine.machine)
    initrd = open_boot_image(
        select_init(machine, arch, environment),
        kernel.modules,
        module_requirements(machine, cmdline),
        cache,
    )
    started = _open_started_kernel(machine, kernel, hardware, qemu, cache)
    setup = Setup(
        program=qemu,
        hardware=hardware,
        kernel=started.file,
        initrd=initrd,
        cmdline=cmdline,
        firmware=started.firmware,
        sandbox=has_sandbox(qemu, cache),
    )
    setup = _add_devices(setup, machine, of_guest.shares)
    release = find_release(started.release, kernel.release)
    sharing = plan_sharing(virtiofsd, setup.shares, parse(cmdline), release)
    launch = Launch(
        setup,
        sharing.virtiofsd,
        kernel.image,
        machine.command,
        os.path.join(locate.state_directory(environment), "failed-boots"),
        gdb=machine.gdb,
        release=started.release,
    )
    launch = _add_messages(launch, of_guest.remark(kernel.release), cache, sharing)
    is_warm = machine.warm and machine.command is not None
    return _add_warm_start(launch, machine, kernel.release, cache) if is_warm else launch


def _add_devices(setup: Setup, machine: Machine, module_shares: tuple[Share, ...]) -> Setup:
    """Return the set-up with the devices and the further words that the options ask for."""
    return setup.replace(
        shares=(*all_shares(machine), *module_shares),
        ports=machine.command.ports if machine.command else (),
        disks=machine.disks,
        network=bool(machine.network),
        reaches_loopback=machine.network == NETWORK_WITH_HOST,
        published=machine.publish,
        mac=random_mac() if machine.network else "",
        extra=machine.qemu_arguments,
    )


def _add_messages(launch: Launch, remark: str, cache: Cache, sharing: Sharing) -> Launch:
    """Return the launch with what is to be printed; `remark`: about the guest's modules."""
    of_cache, warning = _explain_cache(cache)
    return launch.replace(
        remarks=(*filter(None, (remark, of_cache)), *sharing.remarks),
        warnings=(*filter(None, (warning,)), *sharing.warnings),
    )


def _add_warm_start(launch: Launch, machine: Machine, release: str, cache: Cache) -> Launch:
    """Return the launch with what a start from a template needs; `release`: of the kernel."""
    hardware = launch.setup.hardware
    warm = Warm(
        template_command_line(machine, hardware.arch, hardware.accelerator),
        release,
        os.path.join(cache.path, "templates"),
        machine.cache_limit,
    )
    return launch.replace(setup=launch.setup.replace(generation=random_uuid()), warm=warm)


def _explain_cache(cache: Cache) -> tuple[str, str]:
    """Return why nothing is kept: as a remark, or as a warning if others could change the cache."""
    if not cache.problem:
        return "", ""
    message = explain_cache_problem(cache.problem)
    return ("", message) if isinstance(cache.problem, UnsafeFolder) else (message, "")


def explain_cache_problem(problem: HostError) -> str:
    """Return the message that nothing is kept for later starts, in one line."""
    hint = problem.hint or CACHE_HINT
    return f"going without a cache, which takes longer: {problem.what}: {problem.why}; try: {hint}"


class _StartedKernel(Record):
    """The kernel that QEMU gets, and the release of the image that it is from."""

    file: OpenFile
    firmware: str
    release: str


def _open_started_kernel(
    machine: Machine, kernel: Kernel, hardware: Hardware, qemu: str, cache: Cache
) -> _StartedKernel:
    """Open the image, or the uncompressed kernel in it where QEMU is to start that.

    QEMU gets the descriptor and not the path, where another file may be by then. Raises HostError.
    """
    image = open_kernel(kernel)
    try:
        release = read_release(image)
        vmlinux = find_pvh_kernel(hardware, image, qemu, cache, kaslr=machine.kaslr)
    except BaseException:
        os.close(image.descriptor)
        raise
    if not vmlinux:
        return _StartedKernel(image, "", release)
    os.close(image.descriptor)
    return _StartedKernel(vmlinux.file, vmlinux.firmware, release)


def find_release(*releases: str) -> str:
    """Return the first of these releases of a kernel that has a version; empty if none has."""
    return next(filter(parse_version, releases), "")


def random_uuid() -> str:
    """Return a random UUID, which need not have a version."""
    digits = os.urandom(16).hex()
    return "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:]))


def random_mac() -> str:
    """Return a random Ethernet address in the range that QEMU uses."""
    return "52:54:00:{:02x}:{:02x}:{:02x}".format(*os.urandom(3))


def check_machine(machine: Machine) -> None:
    """Raise HostError for options that contradict each other."""
    tags = [share.tag for share in (machine.root, *machine.shares)]
    for tag in tags:
        if tag in (guest_modules.TAG, guest_modules.BUILD_TAG):
            raise HostError(f"cannot share a directory as {tag}", "that tag is for the modules")
        if tags.count(tag) > 1:
            raise HostError(f"cannot share two directories as {tag}", "a tag is for one")
    if machine.root.writable and machine.overlay:
        raise HostError(
            "cannot make the root writable twice",
            "--rw writes through to the host, --overlay keeps that from happening",
            "one of the two",
        )
    check_published(machine)
    if machine.gdb is not None and machine.kaslr:
        why = "gdb needs the kernel at the address that it was linked for"
        raise HostError("cannot use --kaslr with --gdb", why, "one of the two")


def check_published(machine: Machine) -> None:
    """Raise HostError for published ports that exclude each other, and without a network."""
    for number, port in enumerate(machine.publish):
        if not machine.network:
            raise HostError(f"cannot publish {port.name}", "the guest has no network", "add --net")
        for other in machine.publish[:number]:
            addresses = {port.address, other.address}
            if port.host_port == other.host_port and (len(addresses) == 1 or _ALL & addresses):
                why = f"{other.name} is published already"
                raise HostError(f"cannot publish {port.name}", why, "another HOSTPORT")


def all_shares(machine: Machine) -> tuple[Share, ...]:
    """Return the shares that virtiofsd serves, with absolute paths: the root first."""
    return tuple(
        share.replace(source=os.path.realpath(share.source))
        for share in (machine.root, *machine.shares)
    )


def select_kernel(machine: Machine) -> Kernel:
    """Return the kernel to boot, and its modules. Raises HostError."""
    root, modules = machine.root.source, machine.modules
    if not machine.kernel:
        found = identify_kernel(find_kernel(root))
        return found.replace(modules=modules) if modules else found
    image = os.path.abspath(machine.kernel)
    if os.path.isdir(image):
        arch = guest_arch.choose_arch(machine.arch, guest_arch.read_programs(machine))
        built = identify_kernel(find_built_kernel(image, arch).replace(named=True))
        return built.replace(modules=modules) if modules else built
    kernel = identify_kernel(Kernel("", image, named=True))
    return kernel.replace(modules=modules or find_module_directory(root, kernel.release))


def select_arch(machine: Machine, kernel: Kernel) -> Arch:
    """Return the guest's architecture, for which kernel and root have to be. Raises HostError."""
    programs = guest_arch.read_programs(machine)
    arch = guest_arch.choose_arch(machine.arch, programs, kernel)
    guest_arch.check_kernel(kernel, arch)
    guest_arch.check_programs(programs, arch)
    return arch


def select_init(machine: Machine, arch: Arch, environment: "Mapping[str, str]") -> str:
    """Return the path of the image's `/init`, which has to be for `arch`. Raises HostError."""
    path = locate.find_init(machine.init_program, environment, arch)
    guest_arch.check_init(path, arch)
    return path


def find_virtiofsd(
    machine: Machine, environment: "Mapping[str, str]", cache: Cache | None
) -> Virtiofsd:
    """Return the virtiofsd to use, with the sandbox that it can have. Raises HostError.

    It is asked for its features each time when there is no `cache`.
    """
    path = locate.find_virtiofsd(machine.virtiofsd, environment)
    found = identify(path, cache) if cache else query(path)
    unprotected = machine.unprotected_read_only
    return program.confine(found, root=os.geteuid() == 0, unprotected=unprotected)


def find_qemu(machine: Machine, arch: Arch, environment: "Mapping[str, str]") -> str:
    """Return the path of the QEMU to use. Raises HostError."""
    hint = f"install it (package {arch.package}), or --qemu BIN"
    return locate.find_program(machine.qemu or arch.qemu, environment, hint)


def module_requirements(machine: Machine, cmdline: str) -> tuple[modules.Requirement, ...]:
    """Return the requirements of the boot for modules of the kernel. Raises HostError."""
    try:
        of_boot = modules.requirements_of_cmdline(cmdline)
    except CmdlineError as error:  # the value of --append is invalid
        raise HostError("cannot use the kernel command line", str(error)) from error
    of_options = tuple(modules.module_requirement(name) for name in machine.module)
    return (
        *of_boot,
        *of_options,
        *_disk_requirements(machine),
        *((COMMAND_PORTS,) if machine.command else ()),
    )


def _disk_requirements(machine: Machine) -> tuple[modules.Requirement, ...]:
    return (modules.VIRTIO_DISK,) if machine.disk else ()


def format_commands(launch: Launch) -> list[str]:
    """Return the commands that start the machine, quoted for a shell, a line for each program.

    The comments may have names of others, which are to be printed by `printable`.

    In place of inherited descriptors the commands have sockets in the current directory, and the
    console is the terminal. virtiofsd comes first and runs in the background.
    """
    lines = [f"# {line}" for line in launch.remarks]
    for share in launch.setup.shares:
        socket = f"--socket-path={share.tag}.sock"
        words = program.command(launch.virtiofsd, share, socket, share.source)
        if program.needs_read_only_mount(launch.virtiofsd, share):
            lines.append(f"# in a mount namespace of its own, with {share.source} read-only:")
        lines.append(f"{join_command(words)} &")
    if launch.setup.ports:
        lines.append("# with COMMAND in a small archive behind the image:")
    if launch.setup.network and not launch.setup.reaches_loopback:
        lines.append("# chrootvm also refuses the guest's connections to the host's loopback:")
    return [*lines, join_command(_qemu_by_path(launch))]


def _qemu_by_path(launch: Launch) -> tuple[str, ...]:
    """Return QEMU's command with paths in place of all descriptors."""
    setup = launch.setup
    ports = (f"{argv.path_stream(f'{name}.sock')},server=on,wait=off" for name in setup.ports)
    connections = Connections(
        console=argv.TERMINAL_STREAM,
        shares=tuple(argv.path_stream(f"{share.tag}.sock") for share in setup.shares),
        ports=tuple(ports),
        monitor=f"{argv.path_stream('qmp.sock')},server=on,wait=off" if setup.needs_monitor else "",
        gdb="" if launch.gdb is None else gdb.stream_by_path(launch.gdb),
    )
    return argv.command(setup.by_path(), connections)
