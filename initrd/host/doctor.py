"""chrootvm --doctor: whether a directory will boot here, said without booting it.

Each check asks the code that launches: where that raises an error, the check reports it. So the two
cannot come to different answers.
"""

import os
from functools import partial

from initrd.errors import HostError
from initrd.host.image.build import COMMAND_PORTS, read_init
from initrd.host.image.modules import Requirement, choose_modules
from initrd.host.machine import launch, locate, overlayfile
from initrd.host.machine.config import OVERLAY_IN_MEMORY, Machine
from initrd.host.qemu.accel import choose_accelerator, why_no_kvm
from initrd.host.qemu.arch import Arch, find_arch
from initrd.host.qemu.console import megabytes
from initrd.host.system.process import capture_output
from initrd.host.system.terminal import print_output
from initrd.host.virtiofsd import program, sandbox
from initrd.host.virtiofsd.program import Virtiofsd, ask
from initrd.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

OK, WARNING, MISSING = "ok", "warning", "missing"
_STATE_WIDTH, _SUBJECT_WIDTH = 8, 12
_LEAST = 96 << 20  # bytes; Debian 12's kernel may stand still for ever with less
_UNKNOWN = 1 << 62
_SHARING = b"vhost-user-fs-"  # the device without which no directory can be shared
_ANY_INIT = "/bin/sh"  # which one it is does not matter, and it need not be there


class CheckContext(Record):
    """What is examined: a machine that somebody wants, on the one that is here."""

    machine: Machine
    environment: "Mapping[str, str]"
    arch: Arch
    needs: tuple[Requirement, ...]


class Finding(Record):
    """How it stands with one thing that a boot needs."""

    subject: str
    state: str  # OK; WARNING: it will boot all the same; MISSING: it will not
    text: str
    hint: str = ""  # what to try


def missing_finding(subject: str, error: HostError) -> Finding:
    """Return the finding that launching would fail with this error."""
    return Finding(subject, MISSING, f"{error.what}: {error.why}", error.hint)


def format_findings(findings: "Iterable[Finding]") -> str:
    """Return the lines for people."""
    return "\n".join(map(_line, findings))


def format_verdict(findings: "Iterable[Finding]") -> str:
    """Return the last line: whether it will boot."""
    lacking = [finding.subject for finding in findings if finding.state == MISSING]
    return f"it will not boot: see {', '.join(lacking)}" if lacking else "it will boot"


def _line(finding: Finding) -> str:
    margin = " " * (_STATE_WIDTH + _SUBJECT_WIDTH + 2)
    head = f"{finding.state:{_STATE_WIDTH}} {finding.subject:{_SUBJECT_WIDTH}} "
    text = finding.text.replace("\n", f"\n{margin}")
    return head + text + (f"\n{margin}try: {finding.hint}" if finding.hint else "")


def check_kernel(patient: CheckContext) -> Finding:
    """Which kernel boots."""
    found = launch.select_kernel(patient.machine)
    return Finding("kernel", OK, f"{found.release or 'of unknown version'} ({found.image})")


def check_modules(patient: CheckContext) -> Finding | None:
    """Whether the kernel has what this boot needs."""
    directory = _modules_directory(patient)
    if directory is None:
        return None
    if not directory:
        what = "there are none: it boots only if virtiofs and virtio are built into the kernel"
        return Finding("modules", WARNING, what, "--modules DIR, a lib/modules/VERSION")
    chosen = choose_modules(directory, patient.needs)
    names = ", ".join(module.name for module in chosen)
    return Finding("modules", OK, names or "none is needed: all is built into the kernel")


def check_command_ports(patient: CheckContext) -> Finding | None:
    """Whether a COMMAND could run, where an INIT is what is asked for."""
    directory = _modules_directory(patient)
    if patient.machine.command or not directory:
        return None
    try:
        choose_modules(directory, (COMMAND_PORTS,))
    except HostError as error:
        return Finding("-- COMMAND", WARNING, f"{error.what}: {error.why}", error.hint)
    return None


def check_init(patient: CheckContext) -> Finding | None:
    """Whether INIT is there."""
    machine = patient.machine
    if machine.command:
        return None
    path = locate.find_target(machine.root, machine.init)
    if locate.is_in_guest(machine, path):
        return Finding("init", OK, path)
    if machine.overlay not in ("", OVERLAY_IN_MEMORY):
        return Finding("init", WARNING, f"{path} is not there, unless {machine.overlay} has it")
    raise HostError(f"cannot run {path}", f"no such program in {machine.root}", "its path")


def check_command(patient: CheckContext) -> Finding | None:
    """Whether COMMAND is there. It may come from a PATH that we do not look at."""
    asked = patient.machine.command
    if asked is None:
        return None
    name = os.fsdecode(asked.argv[0])
    try:
        path = name if name.startswith("/") else locate.find_target(patient.machine.root, name)
    except HostError as error:
        return Finding("command", WARNING, f"{error.what}: {error.why}", error.hint)
    if locate.is_in_guest(patient.machine, path):
        return Finding("command", OK, path)
    return Finding("command", WARNING, f"no program {path} in {patient.machine.root}")


def _modules_directory(patient: CheckContext) -> str | None:
    """Return the kernel's directory of modules; None without a kernel, which is another check's."""
    try:
        return launch.select_kernel(patient.machine).modules
    except HostError:
        return None


def check_init_program(patient: CheckContext) -> Finding:
    """Whether there is an `/init` for the image."""
    path = locate.find_init(patient.machine.init_program, patient.environment)
    return Finding("/init", OK, f"{path} ({len(read_init(path)) >> 10} kB)")


def check_virtiofsd(patient: CheckContext) -> Finding:
    """Which virtiofsd shares the directories."""
    dialect = _dialect(patient)
    language = {"c": "C", "rust": "Rust"}[dialect.family]
    return Finding("virtiofsd", OK, f"{dialect.program}, the one in {language}")


def check_open_files(patient: CheckContext) -> Finding | None:
    """Whether the guest can know of more files than virtiofsd may have open."""
    limit = sandbox.open_file_limit()
    dialect = _dialect_if_any(patient)
    without = dialect is None or (dialect.handles and sandbox.need_file_handles())
    if limit >= sandbox.ENOUGH_FILES or without:
        return None
    text = f"{limit} at most (ulimit -Hn): a guest that looks at more may see errors"
    return Finding("open files", WARNING, text, "a higher limit, or the virtiofsd in Rust, as root")


def check_permissions(patient: CheckContext) -> Finding | None:
    """Whether that virtiofsd may share what it shall."""
    directories = tuple(directory for _, directory in launch.directories(patient.machine))
    dialect = _dialect_if_any(patient)
    if dialect is None:
        return None
    program.check(dialect, directories, root=os.geteuid() == 0)
    shared = ", ".join(
        f"{one.path} ({'writable' if one.writable else 'read-only'})" for one in directories
    )
    return Finding("permissions", OK, f"may share {shared}")


def check_overlay(patient: CheckContext) -> Finding | None:
    """Whether the disk image of an overlay can be used, or made."""
    path = patient.machine.overlay
    if path in ("", OVERLAY_IN_MEMORY):
        return None
    if os.path.lexists(path):
        os.close(overlayfile.lock_overlay_file(path, patient.environment))
        return Finding("overlay", OK, path)
    overlayfile.find_mkfs(patient.environment)
    if os.access(os.path.dirname(path), os.W_OK | os.X_OK):
        return Finding("overlay", OK, f"{path}, which will be made")
    raise HostError(f"cannot make {path} for the overlay", "its directory cannot be written to")


def check_qemu(patient: CheckContext) -> Finding:
    """Which QEMU runs the machine."""
    program = launch.find_qemu(patient.machine, patient.arch, patient.environment)
    check_qemu_devices(program)
    return Finding("QEMU", OK, f"{program}, version {qemu_version(program)}")


def check_accelerator(patient: CheckContext) -> Finding:
    """Whether the guest runs on the processor."""
    wanted, cache = patient.machine.accel, locate.cache_directory(patient.environment)
    ask = partial(why_no_kvm, cache)
    if choose_accelerator(wanted, patient.arch, ask) == "kvm":
        return Finding("accelerator", OK, "KVM works")
    if wanted == "tcg":
        return Finding("accelerator", OK, "none (--accel tcg)")
    why = ""
    try:
        choose_accelerator("kvm", patient.arch, ask)
    except HostError as error:
        why = error.why
    return Finding("accelerator", WARNING, f"no KVM, so it will be slow: {why}")


def check_memory(patient: CheckContext) -> Finding:
    """Whether the machine's memory is enough for a kernel, and fits into what is free here."""
    wanted, free = patient.machine.memory, free_memory()
    if wanted < _LEAST:
        text = f"{megabytes(wanted)} is less than most kernels boot with"
        return Finding("memory", WARNING, text, f"--memory {megabytes(_LEAST)}")
    text = f"{megabytes(wanted)} wanted, {megabytes(free)} free"
    if wanted <= free:
        return Finding("memory", OK, text)
    return Finding("memory", WARNING, f"{text}: it may be killed", f"--memory {megabytes(free)}")


def _dialect_if_any(patient: CheckContext) -> Virtiofsd | None:
    """Return None where the check `server` says what is wrong."""
    try:
        return _dialect(patient)
    except HostError:
        return None


def _dialect(patient: CheckContext) -> Virtiofsd:
    return ask(locate.find_virtiofsd(patient.machine.virtiofsd, patient.environment))


def free_memory(proc: str = "/proc", cgroups: str = "/sys/fs/cgroup") -> int:
    """Return the bytes that are available, or that our control groups have left if that is less."""
    return min(_available(_read(f"{proc}/meminfo")), *_left(_read(f"{proc}/self/cgroup"), cgroups))


def _available(meminfo: str) -> int:
    for line in meminfo.splitlines():
        name, _, value = line.partition(":")
        if name == "MemAvailable":
            return int(value.split()[0]) << 10
    return _UNKNOWN


def _left(membership: str, cgroups: str) -> "Iterator[int]":
    """Yield what each group that we are in may still take. What it caches does not count."""
    yield _UNKNOWN
    group = next((line[3:] for line in membership.splitlines() if line.startswith("0::/")), "/")
    while group != "/":
        folder = cgroups + group
        limit = _read(f"{folder}/memory.max").strip()
        if limit.isdigit():
            yield int(limit) - _anonymous(_read(f"{folder}/memory.stat"))
        group = os.path.dirname(group)


def _anonymous(statistics: str) -> int:
    fields = dict(line.split() for line in statistics.splitlines())
    return int(fields.get("anon", 0))


def _read(path: str) -> str:
    try:
        with open(path, encoding="ascii") as file:
            return file.read()
    except OSError:  # no such limit, or none that we may know
        return ""


def qemu_version(program: str) -> str:
    """Return the version. Raises HostError when the program cannot be run."""
    words = capture_output(program, "--version").decode(errors="replace").split("\n")[0].split()
    numbers = [word for word in words if word[:1].isdigit()]
    return numbers[0] if numbers else "unknown"


def check_qemu_devices(program: str) -> None:
    """Raise HostError for a QEMU that was built without the device that shares directories."""
    if _SHARING not in capture_output(program, "-device", "help"):
        raise HostError(
            f"cannot use {program}",
            "it has no vhost-user-fs device",
            "another QEMU: --qemu BIN",
        )


CHECKS: "tuple[tuple[str, Callable[[CheckContext], Finding | None]], ...]" = (
    ("kernel", check_kernel),
    ("modules", check_modules),
    ("-- COMMAND", check_command_ports),
    ("init", check_init),
    ("command", check_command),
    ("/init", check_init_program),
    ("virtiofsd", check_virtiofsd),
    ("open files", check_open_files),
    ("permissions", check_permissions),
    ("overlay", check_overlay),
    ("QEMU", check_qemu),
    ("accelerator", check_accelerator),
    ("memory", check_memory),
)


def doctor(machine: Machine, environment: "Mapping[str, str]") -> int:
    """Print what was found; return the exit status. Raises HostError for wishes that are none."""
    findings = examine(machine, environment)
    print_output("\n".join((format_findings(findings), format_verdict(findings))))
    return int(any(one.state == MISSING for one in findings))


def examine(machine: Machine, environment: "Mapping[str, str]") -> tuple[Finding, ...]:
    """Return what was found. Raises HostError for wishes that cannot be understood."""
    launch.check_machine(machine)
    arch = find_arch(machine.arch)
    cmdline = launch.command_line(machine.replace(init=_ANY_INIT), arch, "tcg")
    patient = CheckContext(machine, environment, arch, launch.module_requirements(machine, cmdline))
    found = (_examined(subject, look, patient) for subject, look in CHECKS)
    return tuple(one for one in found if one is not None)


def _examined(
    subject: str, look: "Callable[[CheckContext], Finding | None]", patient: CheckContext
) -> Finding | None:
    try:
        return look(patient)
    except HostError as error:
        return missing_finding(subject, error)
