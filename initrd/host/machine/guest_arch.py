"""Choose the architecture of a guest, and check that its kernel, programs and /init are for it.

Without --arch, the kernel image and some programs of the root directory choose it. Of a program
only the header is read, through the checks of `rootfile`: a root may be anybody's. A file that
cannot be read, that is no ELF file, or that is for an unknown machine says nothing; then, and where
two files disagree, the guest has the host's architecture.

A program of 32 bits counts as one for the kernels that execute it: an i386 root is for x86_64.
"""

from initrd.elf import HEADER_SIZE, elf_machine, kernel_for
from initrd.host.machine import locate
from initrd.host.machine.config import Machine
from initrd.host.machine.rootfs import Kernel
from initrd.host.qemu.arch import ARCHES, Arch, find_arch
from initrd.host.system.hosterror import HostError
from initrd.host.system.rootfile import find_in_root, read_head

_PROGRAMS = ("bin/sh", "usr/bin/env")  # those that nearly every root has
_NAMES = {arch.name for arch in ARCHES}
Programs = dict[str, str]  # the path of a program on the host, and the machine that it is for


def read_programs(machine: Machine) -> Programs:
    """Return the machine of the INIT to boot; of _PROGRAMS where that is not known."""
    root = machine.root.source
    return _read_machines(root, _paths_of_init(machine)) or _read_machines(root, _PROGRAMS)


def _paths_of_init(machine: Machine) -> tuple[str, ...]:
    """Return the path of INIT in the root; none without INIT, and where something may cover it."""
    if machine.command or machine.has_overlay_disk:
        return ()
    try:
        path = locate.find_target(machine.root.source, machine.init)
    except HostError:  # `command_line` reports it
        return ()
    is_covered = any(path.startswith(f"{share.target}/") for share in machine.shares)
    return () if is_covered else (path,)


def _read_machines(root: str, paths: tuple[str, ...]) -> Programs:
    found = (_read_machine(root, path) for path in paths)
    return {path: name for path, name in found if name}


def _read_machine(root: str, path: str) -> tuple[str, str]:
    """Return the path of a program on the host, and its machine; empty: unknown."""
    try:
        found = find_in_root(root, path)
        return found, elf_machine(read_head(found, HEADER_SIZE)) if found else ""
    except (HostError, OSError):  # a circle of links, no regular file, or not for this user
        return "", ""


def choose_arch(name: str, programs: Programs, kernel: Kernel | None = None) -> Arch:
    """Return the architecture `name`; if that is empty, the one of the root's files.

    Raises HostError for an unknown name.
    """
    if name:
        return find_arch(name)
    machines = {*programs.values(), kernel.machine if kernel else ""} - {""}
    names = {kernel_for(machine) for machine in machines}
    return find_arch(names.pop() if len(names) == 1 and names <= _NAMES else "")


def check_kernel(kernel: Kernel, arch: Arch) -> None:
    """Raise HostError for a kernel that is for another architecture."""
    if kernel.machine in ("", arch.name):
        return
    hint = f"a kernel for {arch.name}: --kernel FILE|DIR"
    hint = f"--arch {kernel.machine}, or {hint}" if kernel.machine in _NAMES else hint
    raise _wrong_machine(f"cannot boot the kernel {kernel.image}", kernel.machine, arch, hint)


def check_programs(programs: Programs, arch: Arch) -> None:
    """Raise HostError when there are programs, and all are for another architecture."""
    if not programs or any(kernel_for(name) == arch.name for name in programs.values()):
        return
    path, name = next(iter(programs.items()))
    hint = f"--arch {kernel_for(name)}, or a root for {arch.name}"
    raise _wrong_machine(f"cannot run {path}", name, arch, hint)


def check_init(path: str, arch: Arch) -> None:
    """Raise HostError for a `/init` of the image that is for another architecture."""
    try:
        name = elf_machine(read_head(path, HEADER_SIZE, follow=True))
    except (HostError, OSError):  # `read_init` reports it
        return
    if name and kernel_for(name) != arch.name:
        what = f"cannot use {path} as the image's /init"
        raise _wrong_machine(what, name, arch, locate.init_hint(arch))


def _wrong_machine(what: str, machine: str, arch: Arch, hint: str) -> HostError:
    return HostError(what, f"it is for {machine}, and the guest is {arch.name}", hint)
