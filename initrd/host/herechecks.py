"""What --doctor looks at on this machine: the programs, the permissions, the hardware."""

import os
from functools import partial

from initrd.host import launch, layerfile, locate, openfiles, qemuprobe, virtiofsd
from initrd.host.accel import choose, why_no_kvm
from initrd.host.dialect import Dialect, ask
from initrd.host.explain import megabytes
from initrd.host.failure import HostError
from initrd.host.finding import OK, WARNING, Finding, Patient
from initrd.host.freememory import free_memory
from initrd.host.image import read_init
from initrd.host.machine import OVERLAY_IN_MEMORY

_LEAST = 96 << 20  # bytes; Debian 12's kernel may stand still for ever with less


def init_program(patient: Patient) -> Finding:
    """Whether there is an `/init` for the image."""
    path = locate.find_init(patient.machine.init_program, patient.environment)
    return Finding("/init", OK, f"{path} ({len(read_init(path)) >> 10} kB)")


def server(patient: Patient) -> Finding:
    """Which virtiofsd shares the directories."""
    dialect = _dialect(patient)
    language = {"c": "C", "rust": "Rust"}[dialect.family]
    return Finding("virtiofsd", OK, f"{dialect.program}, the one in {language}")


def open_files(patient: Patient) -> Finding | None:
    """Whether the guest can know of more files than virtiofsd may have open."""
    limit = openfiles.limit()
    dialect = _dialect_if_any(patient)
    without = dialect is None or (dialect.handles and openfiles.need_handles())
    if limit >= openfiles.ENOUGH or without:
        return None
    text = f"{limit} at most (ulimit -Hn): a guest that looks at more may see errors"
    return Finding("open files", WARNING, text, "a higher limit, or the virtiofsd in Rust, as root")


def permissions(patient: Patient) -> Finding | None:
    """Whether that virtiofsd may share what it shall."""
    directories = tuple(directory for _, directory in launch.directories(patient.machine))
    dialect = _dialect_if_any(patient)
    if dialect is None:
        return None
    virtiofsd.check(dialect, directories, root=os.geteuid() == 0)
    shared = ", ".join(
        f"{one.path} ({'writable' if one.writable else 'read-only'})" for one in directories
    )
    return Finding("permissions", OK, f"may share {shared}")


def overlay(patient: Patient) -> Finding | None:
    """Whether the disk image of an overlay can be used, or made."""
    path = patient.machine.overlay
    if path in ("", OVERLAY_IN_MEMORY):
        return None
    if os.path.lexists(path):
        os.close(layerfile.hold(path, patient.environment))
        return Finding("overlay", OK, path)
    layerfile.find_mkfs(patient.environment)
    if os.access(os.path.dirname(path), os.W_OK | os.X_OK):
        return Finding("overlay", OK, f"{path}, which will be made")
    raise HostError(f"cannot make {path} for the overlay", "its directory cannot be written to")


def qemu(patient: Patient) -> Finding:
    """Which QEMU runs the machine."""
    program = launch.qemu_of(patient.machine, patient.arch, patient.environment)
    qemuprobe.check(program)
    return Finding("QEMU", OK, f"{program}, version {qemuprobe.version(program)}")


def accelerator(patient: Patient) -> Finding:
    """Whether the guest runs on the processor."""
    wanted, cache = patient.machine.accel, locate.cache_directory(patient.environment)
    ask = partial(why_no_kvm, cache)
    if choose(wanted, patient.arch, ask) == "kvm":
        return Finding("accelerator", OK, "KVM works")
    if wanted == "tcg":
        return Finding("accelerator", OK, "none (--accel tcg)")
    why = ""
    try:
        choose("kvm", patient.arch, ask)
    except HostError as error:
        why = error.why
    return Finding("accelerator", WARNING, f"no KVM, so it will be slow: {why}")


def memory(patient: Patient) -> Finding:
    """Whether the machine's memory is enough for a kernel, and fits into what is free here."""
    wanted, free = patient.machine.memory, free_memory()
    if wanted < _LEAST:
        text = f"{megabytes(wanted)} is less than most kernels boot with"
        return Finding("memory", WARNING, text, f"--memory {megabytes(_LEAST)}")
    text = f"{megabytes(wanted)} wanted, {megabytes(free)} free"
    if wanted <= free:
        return Finding("memory", OK, text)
    return Finding("memory", WARNING, f"{text}: it may be killed", f"--memory {megabytes(free)}")


def _dialect_if_any(patient: Patient) -> Dialect | None:
    """Return None where the check `server` says what is wrong."""
    try:
        return _dialect(patient)
    except HostError:
        return None


def _dialect(patient: Patient) -> Dialect:
    return ask(locate.find_virtiofsd(patient.machine.virtiofsd, patient.environment))
