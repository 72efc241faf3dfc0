"""chrootvm --doctor: check whether a directory will boot on this machine, without booting it.

Each check calls the functions that plan a launch, and reports the error that they raise. So the
checks and a launch cannot come to different results.

Sources for the free memory: the kernel's Documentation/filesystems/proc.rst and
admin-guide/cgroup-v2.rst.
"""

import os
from functools import partial

from initrd.cmdline import parse
from initrd.command import Command
from initrd.host.image.build import COMMAND_PORTS, read_init, read_modules
from initrd.host.image.kmod import MODULE_DIRECTORIES
from initrd.host.image.modules import Requirement, choose_modules
from initrd.host.machine import gdb, guest_arch, launch, locate, overlayfile
from initrd.host.machine.cli import MIN_MEMORY
from initrd.host.machine.cmdline import command_line
from initrd.host.machine.config import Machine
from initrd.host.machine.devices import NETWORK_WITHOUT_HOST
from initrd.host.machine.disks import lock_disks
from initrd.host.machine.guest_modules import GuestModules, find_guest_modules, stage
from initrd.host.machine.rootfs import Kernel
from initrd.host.machine.sharing import Sharing, plan_sharing
from initrd.host.qemu import loopback
from initrd.host.qemu.accel import choose_accelerator, find_kvm_problem
from initrd.host.qemu.arch import Arch
from initrd.host.qemu.console import format_megabytes
from initrd.host.qemu.resources import explain_port, find_port_problem
from initrd.host.system.cached import Cache
from initrd.host.system.hosterror import HostError
from initrd.host.system.printable import shorten
from initrd.host.system.process import capture_output
from initrd.host.system.rootfile import find_in_root
from initrd.host.system.terminal import print_output
from initrd.host.template.store import find_store_problem
from initrd.host.template.warm import Requirements, find_obstacle
from initrd.host.virtiofsd import program, sandbox
from initrd.host.virtiofsd.program import Virtiofsd
from initrd.options import BootOptions
from initrd.record import Record
from initrd.text import parse_natural

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

OK, WARNING, MISSING = "ok", "warning", "missing"
_STATE_WIDTH, _SUBJECT_WIDTH = 8, 12
_NO_LIMIT = 1 << 62  # bytes
_SHARE_DEVICE = b"vhost-user-fs-"  # the start of its name in `-device help`


class CheckContext(Record):
    """The arguments of each check: the machine to boot, and the inputs of a launch of it."""

    machine: Machine
    environment: "Mapping[str, str]"
    arch: Arch
    requirements: tuple[Requirement, ...]  # of the boot for modules of the kernel
    options: BootOptions  # of the boot


class Finding(Record):
    """The result of one check."""

    subject: str
    state: str  # OK; WARNING: the machine boots nevertheless; MISSING: it does not boot
    text: str
    hint: str = ""  # what the user can try


def missing_finding(subject: str, error: HostError) -> Finding:
    """Return the finding for an error with which a launch fails."""
    return Finding(subject, MISSING, f"{error.what}: {error.why}", error.hint)


def format_findings(findings: "Iterable[Finding]") -> list[str]:
    """Return the table: a line for each finding, and one for its hint.

    The lines may have names of others, which are to be printed by `printable`.
    """
    return [line for finding in findings for line in _format_finding(finding)]


def format_verdict(findings: "Iterable[Finding]") -> str:
    """Return the last line of the output: whether the machine will boot."""
    missing = [finding.subject for finding in findings if finding.state == MISSING]
    return f"it will not boot: see {', '.join(missing)}" if missing else "it will boot"


def _format_finding(finding: Finding) -> list[str]:
    margin = " " * (_STATE_WIDTH + _SUBJECT_WIDTH + 2)
    text = shorten(finding.text)
    line = f"{finding.state:{_STATE_WIDTH}} {finding.subject:{_SUBJECT_WIDTH}} {text}"
    return [line, f"{margin}try: {shorten(finding.hint)}"] if finding.hint else [line]


def check_kernel(context: CheckContext) -> Finding:
    """Report the kernel that a launch selects, which has to be for the guest's architecture."""
    kernel = launch.select_kernel(context.machine)
    guest_arch.check_kernel(kernel, context.arch)
    return Finding("kernel", OK, f"{kernel.release or 'of unknown version'} ({kernel.image})")


def check_programs(context: CheckContext) -> Finding:
    """Report the guest's architecture, for which the root's programs have to be."""
    guest_arch.check_programs(guest_arch.read_programs(context.machine), context.arch)
    return Finding("architecture", OK, context.arch.name)


def check_modules(context: CheckContext) -> Finding | None:
    """Check that the kernel has the modules that this boot needs, and that they can be read."""
    directory = _modules_directory(context)
    if directory is None:
        return None
    if not directory:
        text = "there are none: it boots only if virtiofs and virtio are built into the kernel"
        return Finding("modules", WARNING, text, "--modules DIR, a lib/modules/VERSION")
    chosen = choose_modules(directory, context.requirements)
    read_modules(chosen)
    names = ", ".join(module.name for module in chosen)
    return Finding("modules", OK, names or "none is needed: all is built into the kernel")


def check_guest_modules(context: CheckContext) -> Finding | None:
    """Warn when modprobe in the guest will find no modules."""
    virtiofsd = _virtiofsd_if_any(context)
    try:
        kernel = launch.select_kernel(context.machine)
    except HostError:  # `check_kernel` reports it
        return None
    if virtiofsd is None or not kernel.release:
        return None
    cache, environment = locate.cache_directory(context.environment), context.environment
    found = _guest_modules(context, kernel, virtiofsd)
    found, subject = stage(found, kernel.release, cache, environment), "/lib/modules"
    if found.missing:
        text = f"modprobe will find none for {kernel.release}: {found.missing.why}"
        return Finding(subject, WARNING, text, found.missing.hint)
    if found.shares:
        return Finding(subject, OK, f"will be mounted, from {found.shares[-1].source}")
    return _modules_in_root(context, kernel.release) if found.in_root else None


def _modules_in_root(context: CheckContext, release: str) -> Finding:
    """Return what modprobe finds in the root's own directory: it reads the lists of depmod."""
    root = context.machine.root.source
    if any(find_in_root(root, f"{top}/{release}/modules.dep") for top in MODULE_DIRECTORIES):
        return Finding("/lib/modules", OK, "the root has it")
    text = f"modprobe will find none: the root's /lib/modules/{release} has no modules.dep"
    return Finding("/lib/modules", WARNING, text, f"depmod {release}, run in the root")


def check_command_ports(context: CheckContext) -> Finding | None:
    """Warn when the kernel lacks the driver that a COMMAND needs; only where an INIT is given."""
    directory = _modules_directory(context)
    if context.machine.command or not directory:
        return None
    try:
        choose_modules(directory, (COMMAND_PORTS,))
    except HostError as error:
        return Finding("-- COMMAND", WARNING, f"{error.what}: {error.why}", error.hint)
    return None


def check_init(context: CheckContext) -> Finding | None:
    """Check that the guest has INIT; an overlay file may have it, which is a warning."""
    machine = context.machine
    if machine.command:
        return None
    path = locate.find_target(machine.root.source, machine.init)
    if locate.is_in_guest(machine, path):
        return Finding("init", OK, path)
    if machine.has_overlay_disk:
        return Finding("init", WARNING, f"{path} is not there, unless {machine.overlay} has it")
    raise HostError(f"cannot run {path}", f"no such program in {machine.root.source}", "its path")


def check_command(context: CheckContext) -> Finding | None:
    """Warn when COMMAND is not in the usual directories. The guest's PATH may have others.

    Of a login shell, check the one that replaces a missing shell.
    """
    command = context.machine.command
    if not isinstance(command, Command):
        return None
    name = os.fsdecode(command.argv[0]) if command.argv else "/bin/sh"
    try:
        path = (
            name if name.startswith("/") else locate.find_target(context.machine.root.source, name)
        )
    except HostError as error:
        return Finding("command", WARNING, f"{error.what}: {error.why}", error.hint)
    if locate.is_in_guest(context.machine, path):
        return Finding("command", OK, path)
    return Finding("command", WARNING, f"no program {path} in {context.machine.root.source}")


def _modules_directory(context: CheckContext) -> str | None:
    """Return the kernel's directory of modules; None without a kernel.

    `check_kernel` reports a missing kernel.
    """
    try:
        return launch.select_kernel(context.machine).modules
    except HostError:
        return None


def check_init_program(context: CheckContext) -> Finding:
    """Check that the `/init` of the image is a program for the guest's architecture."""
    path = launch.select_init(context.machine, context.arch, context.environment)
    return Finding("/init", OK, f"{path} ({len(read_init(path)) >> 10} kB)")


def check_virtiofsd(context: CheckContext) -> Finding:
    """Report the virtiofsd that serves the shares."""
    virtiofsd = _find_virtiofsd(context)
    language = {"c": "C", "rust": "Rust"}[virtiofsd.family]
    return Finding("virtiofsd", OK, f"{virtiofsd.program}, the one in {language}")


def check_open_files(context: CheckContext) -> Finding | None:
    """Warn when virtiofsd may have fewer files open than the guest may use."""
    limit = sandbox.open_file_limit()
    virtiofsd = _virtiofsd_if_any(context)
    is_irrelevant = virtiofsd is None or (virtiofsd.handles and sandbox.needs_file_handles())
    if limit >= sandbox.AMPLE_OPEN_FILES or is_irrelevant:
        return None
    text = f"{limit} at most (ulimit -Hn): a guest that looks at more may see errors"
    return Finding("open files", WARNING, text, "a higher limit, or the virtiofsd in Rust, as root")


def check_permissions(context: CheckContext) -> Finding | None:
    """Check that virtiofsd can serve all shares."""
    shares = launch.all_shares(context.machine)
    virtiofsd = _virtiofsd_if_any(context)
    if virtiofsd is None:
        return None
    program.check(virtiofsd, shares, root=os.geteuid() == 0)
    shared = (f"{share.source} ({_access(writable=share.writable)})" for share in shares)
    return Finding("permissions", OK, f"may share {', '.join(shared)}")


def check_setuid_bits(context: CheckContext) -> Finding | None:
    """Warn when setuid bits stay that other kernels of the guest have removed."""
    sharing = _plan_sharing(context)
    why = sharing.setuid_bits if sharing else ""
    return Finding("setuid bits", WARNING, why) if why else None


def check_submounts(context: CheckContext) -> Finding | None:
    """Warn of mounts below the root that the guest does not see as mounts."""
    sharing = _plan_sharing(context)
    why = sharing.submounts if sharing else ""
    return Finding("submounts", WARNING, why) if why else None


def check_sandbox(context: CheckContext) -> Finding | None:
    """Warn when virtiofsd is confined less than elsewhere, or shares are not protected."""
    sharing = _plan_sharing(context)
    parts = (sharing.sandbox, sharing.protection) if sharing else ()
    why = "; ".join(filter(None, parts))
    return Finding("sandbox", WARNING, why) if why else None


def _plan_sharing(context: CheckContext) -> Sharing | None:
    """Return how virtiofsd serves the shares; None without a virtiofsd or a kernel."""
    virtiofsd = _virtiofsd_if_any(context)
    try:
        release = launch.find_release(launch.select_kernel(context.machine).release)
    except HostError:  # `check_kernel` reports it
        return None
    shares = launch.all_shares(context.machine)
    return plan_sharing(virtiofsd, shares, context.options, release) if virtiofsd else None


def _access(*, writable: bool) -> str:
    return "writable" if writable else "read-only"


def check_overlay(context: CheckContext) -> Finding | None:
    """Check that the disk image of an overlay can be used, or created."""
    path = context.machine.overlay
    if not context.machine.has_overlay_disk:
        return None
    if os.path.lexists(path):
        os.close(overlayfile.lock_overlay_file(path, context.environment))
        return Finding("overlay", OK, path)
    overlayfile.find_mkfs(context.environment)
    if os.access(os.path.dirname(path), os.W_OK | os.X_OK):
        return Finding("overlay", OK, f"{path}, which will be made")
    raise HostError(f"cannot make {path} for the overlay", "its directory cannot be written to")


def check_disks(context: CheckContext) -> Finding | None:
    """Check that the disk images can be used."""
    machine = context.machine
    if not machine.disk:
        return None
    # `check_overlay` reports an overlay that is missing, which `lock_disks` would create.
    is_overlay_there = machine.has_overlay_disk and os.path.lexists(machine.overlay)
    with lock_disks(machine.disks if is_overlay_there else machine.disk, context.environment):
        names = (f"{disk.path} ({_access(writable=disk.writable)})" for disk in machine.disk)
        return Finding("disks", OK, ", ".join(names))


def check_published(context: CheckContext) -> Finding | None:
    """Check that this process can listen at the ports of the host."""
    ports = context.machine.publish
    for port in ports:
        why = find_port_problem(port)
        if why:
            raise explain_port(port, why)
    return Finding("ports", OK, ", ".join(port.name for port in ports)) if ports else None


def check_network(context: CheckContext) -> Finding | None:
    """Check that the guest can be kept away from the host's loopback."""
    network = context.machine.network
    if network == NETWORK_WITHOUT_HOST:
        loopback.check()
        return Finding("network", OK, "without the services on the host's loopback")
    return Finding("network", OK, "with the services on the host's loopback") if network else None


def check_gdb(context: CheckContext) -> Finding | None:
    """Check that gdb can connect; warn when no file with the kernel's symbols is found."""
    port = context.machine.gdb
    if port is None:
        return None
    with gdb.listen(port, context.environment):
        pass
    try:
        kernel = launch.select_kernel(context.machine)
    except HostError:  # `check_kernel` reports it
        return None
    vmlinux = gdb.find_vmlinux(kernel.image, kernel.release, context.machine.root.source)
    if vmlinux:
        return Finding("gdb", OK, f"symbols in {vmlinux}")
    hint = "--kernel DIR, a build tree; or the symbols' package in ROOTFS"
    return Finding("gdb", WARNING, "no vmlinux with the kernel's symbols is found", hint)


def check_qemu(context: CheckContext) -> Finding:
    """Report the QEMU that runs the machine, and its version."""
    qemu = launch.find_qemu(context.machine, context.arch, context.environment)
    check_qemu_devices(qemu)
    return Finding("QEMU", OK, f"{qemu}, version {qemu_version(qemu)}")


def check_accelerator(context: CheckContext) -> Finding:
    """Warn when the guest's processor is emulated."""
    with Cache(locate.cache_directory(context.environment)) as cache:
        return _check_accelerator(context, partial(find_kvm_problem, cache))


def _check_accelerator(context: CheckContext, test_kvm: "Callable[[], str]") -> Finding:
    option = context.machine.accel
    if choose_accelerator(option, context.arch, test_kvm) == "kvm":
        return Finding("accelerator", OK, "KVM works")
    if option == "tcg":
        return Finding("accelerator", OK, "none (--accel tcg)")
    why = ""
    try:
        choose_accelerator("kvm", context.arch, test_kvm)
    except HostError as error:
        why = error.why
    return Finding("accelerator", WARNING, f"no KVM, so it will be slow: {why}")


def check_memory(context: CheckContext) -> Finding:
    """Warn when the machine's memory is too small for a kernel, or more than the host has free."""
    size, free = context.machine.memory, free_memory()
    if size < MIN_MEMORY:
        text = f"{format_megabytes(size)} is less than most kernels boot with"
        return Finding("memory", WARNING, text, f"--memory {format_megabytes(MIN_MEMORY)}")
    text = f"{format_megabytes(size)} wanted, {format_megabytes(free)} free"
    if size <= free:
        return Finding("memory", OK, text)
    return Finding(
        "memory", WARNING, f"{text}: it may be killed", f"--memory {format_megabytes(free)}"
    )


def check_cache(context: CheckContext) -> Finding | None:
    """Warn when images and kernels are made again at each start."""
    with Cache(locate.cache_directory(context.environment)) as cache:
        cache.check_folders()
        problem = cache.problem
    if problem is None:
        return None
    text = f"nothing is kept, so each start takes longer: {problem.what}: {problem.why}"
    return Finding("cache", WARNING, text, problem.hint or launch.CACHE_HINT)


def check_template(context: CheckContext) -> Finding | None:
    """Report whether a command can start from a template. Where it cannot, it boots."""
    machine, virtiofsd = context.machine, _virtiofsd_if_any(context)
    try:
        kernel = launch.select_kernel(machine)
    except HostError:  # `check_kernel` reports it
        return None
    modules = _guest_modules(context, kernel, virtiofsd).shares if virtiofsd else ()
    needed = Requirements(
        context.arch.name,
        kernel.release,
        len((machine.root, *machine.shares, *modules, *machine.disks)) + bool(machine.network),
        tuple(share.tag for share in machine.shares),
        machine.qemu_arguments,
        machine.gdb is not None,
    )
    obstacle = find_obstacle(needed) or find_store_problem(
        os.path.join(locate.cache_directory(context.environment), "templates")
    )
    if obstacle:
        return Finding("--warm", WARNING, f"a command boots each time: {obstacle}")
    return Finding("--warm", OK, "a command can start from a template")


def _guest_modules(context: CheckContext, kernel: Kernel, virtiofsd: Virtiofsd) -> GuestModules:
    return find_guest_modules(context.machine, kernel, virtiofsd, context.environment)


def _virtiofsd_if_any(context: CheckContext) -> Virtiofsd | None:
    """Return the virtiofsd; None without one, which `check_virtiofsd` reports."""
    try:
        return _find_virtiofsd(context)
    except HostError:
        return None


def _find_virtiofsd(context: CheckContext) -> Virtiofsd:
    return launch.find_virtiofsd(context.machine, context.environment, None)


def free_memory(proc: str = "/proc", cgroups: str = "/sys/fs/cgroup") -> int:
    """Return the bytes of memory that a new program can have on this machine.

    That is the available memory, or the least that a control group of this process has left.
    """
    available = _available_memory(_read(f"{proc}/meminfo"))
    return min(available, *_cgroup_memory(_read(f"{proc}/self/cgroup"), cgroups))


def _available_memory(meminfo: str) -> int:
    for line in meminfo.splitlines():
        name, _, value = line.partition(":")
        if name == "MemAvailable":
            return int(value.split()[0]) << 10
    return _NO_LIMIT


def _cgroup_memory(membership: str, cgroups: str) -> "Iterator[int]":
    """Yield the bytes that each control group of this process has left.

    Its page cache is not counted, because the kernel can drop that.
    """
    yield _NO_LIMIT
    group = next((line[3:] for line in membership.splitlines() if line.startswith("0::/")), "/")
    while group != "/":
        folder = cgroups + group
        limit = _read(f"{folder}/memory.max").strip()
        number = parse_natural(limit)
        if number is not None:
            yield number - _anonymous_memory(_read(f"{folder}/memory.stat"))
        group = os.path.dirname(group)


def _anonymous_memory(statistics: str) -> int:
    fields = dict(line.split() for line in statistics.splitlines())
    return int(fields.get("anon", 0))


def _read(path: str) -> str:
    try:
        with open(path, encoding="ascii") as file:
            return file.read()
    except OSError:  # the kernel has no such file, or this user may not read it
        return ""


def qemu_version(program: str) -> str:
    """Return the version of a QEMU; `unknown` when its output has none.

    Raises HostError when the program cannot be run.
    """
    words = capture_output(program, "--version").decode(errors="replace").split("\n")[0].split()
    numbers = [word for word in words if word[:1].isdigit()]
    return numbers[0] if numbers else "unknown"


def check_qemu_devices(program: str) -> None:
    """Raise HostError for a QEMU without the device for virtiofs, vhost-user-fs."""
    if _SHARE_DEVICE not in capture_output(program, "-device", "help"):
        raise HostError(
            f"cannot use {program}",
            "it has no vhost-user-fs device",
            "another QEMU: --qemu BIN",
        )


# The subject of each check, and the check; None: the check does not apply.
CHECKS: "tuple[tuple[str, Callable[[CheckContext], Finding | None]], ...]" = (
    ("architecture", check_programs),
    ("kernel", check_kernel),
    ("modules", check_modules),
    ("/lib/modules", check_guest_modules),
    ("-- COMMAND", check_command_ports),
    ("init", check_init),
    ("command", check_command),
    ("/init", check_init_program),
    ("virtiofsd", check_virtiofsd),
    ("open files", check_open_files),
    ("permissions", check_permissions),
    ("sandbox", check_sandbox),
    ("setuid bits", check_setuid_bits),
    ("submounts", check_submounts),
    ("overlay", check_overlay),
    ("disks", check_disks),
    ("network", check_network),
    ("ports", check_published),
    ("gdb", check_gdb),
    ("QEMU", check_qemu),
    ("accelerator", check_accelerator),
    ("memory", check_memory),
    ("cache", check_cache),
    ("--warm", check_template),
)


def doctor(machine: Machine, environment: "Mapping[str, str]") -> int:
    """Print the findings; return the exit status: 1 when the machine would not boot, else 0.

    Raises HostError for invalid or contradicting options.
    """
    findings = examine(machine, environment)
    print_output(*format_findings(findings), format_verdict(findings))
    return int(any(finding.state == MISSING for finding in findings))


def examine(machine: Machine, environment: "Mapping[str, str]") -> tuple[Finding, ...]:
    """Return the findings. Raises HostError for invalid or contradicting options."""
    launch.check_machine(machine)
    arch = _choose_arch(machine)
    # An INIT that the root lacks is a finding of `check_init`, so it is left out here.
    cmdline = command_line(machine.replace(init=BootOptions.init), arch, "tcg")
    requirements = launch.module_requirements(machine, cmdline)
    context = CheckContext(machine, environment, arch, requirements, parse(cmdline))
    findings = (_run_check(subject, check, context) for subject, check in CHECKS)
    return tuple(finding for finding in findings if finding is not None)


def _choose_arch(machine: Machine) -> Arch:
    """Return the architecture that a launch chooses. Raises HostError for an unknown --arch."""
    try:
        kernel = launch.select_kernel(machine)
    except HostError:  # `check_kernel` reports it
        kernel = None
    return guest_arch.choose_arch(machine.arch, guest_arch.read_programs(machine), kernel)


def _run_check(
    subject: str, check: "Callable[[CheckContext], Finding | None]", context: CheckContext
) -> Finding | None:
    try:
        return check(context)
    except HostError as error:
        return missing_finding(subject, error)
