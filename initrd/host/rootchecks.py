"""What --doctor looks at in the root directory: its kernel, the modules, what shall run."""

import os

from initrd.host import launch, locate
from initrd.host.bootimage import PORTS
from initrd.host.failure import HostError
from initrd.host.finding import OK, WARNING, Finding, Patient
from initrd.host.machine import OVERLAY_IN_MEMORY
from initrd.host.modules import choose


def kernel(patient: Patient) -> Finding:
    """Which kernel boots."""
    found = launch.kernel_of(patient.machine)
    return Finding("kernel", OK, f"{found.release or 'of unknown version'} ({found.image})")


def modules(patient: Patient) -> Finding | None:
    """Whether the kernel has what this boot needs."""
    directory = _modules_directory(patient)
    if directory is None:
        return None
    if not directory:
        what = "there are none: it boots only if virtiofs and virtio are built into the kernel"
        return Finding("modules", WARNING, what, "--modules DIR, a lib/modules/VERSION")
    chosen = choose(directory, patient.needs)
    names = ", ".join(module.name for module in chosen)
    return Finding("modules", OK, names or "none is needed: all is built into the kernel")


def streams(patient: Patient) -> Finding | None:
    """Whether a COMMAND could run, where an INIT is what is asked for."""
    directory = _modules_directory(patient)
    if patient.machine.command or not directory:
        return None
    try:
        choose(directory, (PORTS,))
    except HostError as error:
        return Finding("-- COMMAND", WARNING, f"{error.what}: {error.why}", error.hint)
    return None


def init(patient: Patient) -> Finding | None:
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


def command(patient: Patient) -> Finding | None:
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


def _modules_directory(patient: Patient) -> str | None:
    """Return the kernel's directory of modules; None without a kernel, which is another check's."""
    try:
        return launch.kernel_of(patient.machine).modules
    except HostError:
        return None
