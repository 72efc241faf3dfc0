"""The target in the code of the host that plans a launch: a root directory of any content.

A line of the input describes one file of the root: its kind, path, and content or target. The files
are made in a temporary directory, beneath which each path is opened component by component without
following a link. Nothing is mounted, and no machine starts.
"""

import functools
import os
import shutil
import stat
from contextlib import suppress
from pathlib import Path

from initrd.command import Command
from initrd.host.doctor import CHECKS, CheckContext
from initrd.host.machine.config import Machine
from initrd.host.machine.guest_arch import choose_arch, read_programs
from initrd.host.machine.launch import format_commands, module_requirements, plan_launch
from initrd.host.system.hosterror import HostError
from initrd.options import BootOptions, Root, Share
from tests.fuzz.scratch import scratch
from tests.fuzz.target import Target
from tests.host.conftest import QEMU, write_program
from tests.host.image.module_trees import elf_module
from tests.host.qemu.kernel_images import PACKED, bzimage

_CONTENTS = {
    b"KERNEL": bzimage(PACKED),
    b"MODULE": elf_module("depends="),
    b"DEP": b"kernel/virtiofs.ko: kernel/virtio_pci.ko\nkernel/virtio_pci.ko:\n",
    b"PROGRAM": b"\x7fELF\x02\x01\x01" + bytes(9) + b"\x02\x00\xb7\x00",
    b"BUILTIN": b"kernel/virtio_console.ko\n",
}
_CHECKS = (
    "architecture",
    "kernel",
    "modules",
    "/lib/modules",
    "-- COMMAND",
    "init",
    "command",
)  # of the root
_MAX_FILES = 200
_FLAGS = os.O_CLOEXEC | os.O_NOFOLLOW


@functools.cache
def _machine() -> Machine:
    """Return a machine whose programs are scripts."""
    init = scratch("init")
    init.write_bytes(b"\x7fELF and more")
    return Machine(
        root=Share(Root.source, source=str(scratch("root")), writable=False),
        accel="tcg",
        init_program=str(init),
        qemu=write_program(scratch("qemu"), QEMU),
        virtiofsd=write_program(scratch("virtiofsd"), "echo --shared-dir --readonly"),
    )


def run_root(data: bytes) -> None:
    """Plan a launch of a root directory, and check it as --doctor does."""
    root = Path(_machine().root.source)
    root.mkdir()
    try:
        for line in data.split(b"\n")[:_MAX_FILES]:
            _make(line)
        for command in (None, Command((b"sh",))):
            _plan(_machine().replace(command=command))
    finally:
        shutil.rmtree(root)


def _plan(machine: Machine) -> None:
    environment = {"XDG_CACHE_HOME": str(scratch("cache")), "PATH": "/nowhere"}
    with suppress(HostError):
        launch = plan_launch(machine, environment)
        try:
            format_commands(launch)
        finally:
            for descriptor in launch.setup.descriptors:
                os.close(descriptor)
    arch = choose_arch(machine.arch, read_programs(machine))
    context = CheckContext(
        machine, environment, arch, module_requirements(machine, ""), BootOptions()
    )
    for subject, check in CHECKS:
        if subject in _CHECKS:
            with suppress(HostError):
                check(context)


def _make(line: bytes) -> None:
    """Make one file of the root; nothing when that is impossible."""
    kind, _, rest = line.partition(b" ")
    path, _, text = rest.partition(b" ")
    *parents, name = [part for part in path.split(b"/") if part not in (b"", b".", b"..")] or [b""]
    directory = os.open(_machine().root.source, os.O_DIRECTORY | _FLAGS)
    try:
        for parent in parents:
            directory = _enter(directory, parent)
        if name:
            _make_file(directory, kind, name, text)
    except (OSError, ValueError):  # it exists, a parent is no directory, or it cannot be a name
        pass
    finally:
        os.close(directory)


def _enter(directory: int, name: bytes) -> int:
    """Return a descriptor of a directory in `directory`, which it replaces."""
    with suppress(FileExistsError):
        os.mkdir(name, dir_fd=directory)
    entered = os.open(name, os.O_DIRECTORY | _FLAGS, dir_fd=directory)
    os.close(directory)
    return entered


def _make_file(directory: int, kind: bytes, name: bytes, text: bytes) -> None:
    if kind == b"link":
        os.symlink(text, name, dir_fd=directory)
    elif kind == b"fifo":
        os.mkfifo(name, dir_fd=directory)
    elif kind == b"socket":
        os.mknod(name, stat.S_IFSOCK | 0o600, dir_fd=directory)
    elif kind == b"dir":
        os.mkdir(name, dir_fd=directory)
    else:
        file = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _FLAGS, 0o755, dir_fd=directory)
        with open(file, "wb") as writer:
            writer.write(_CONTENTS.get(text, text))


_SEEDS = (
    b"link lib usr/lib\nlink bin usr/bin\nfile usr/bin/sh PROGRAM\n"
    b"file usr/lib/modules/6.1/vmlinuz KERNEL\nfile usr/lib/modules/6.1/modules.dep DEP\n"
    b"file usr/lib/modules/6.1/kernel/virtiofs.ko MODULE\n"
    b"file usr/lib/modules/6.1/kernel/virtio_pci.ko MODULE\n"
    b"file usr/lib/modules/6.1/modules.builtin BUILTIN",
    b"file boot/vmlinuz-6.2 KERNEL\nlink boot/vmlinuz-6.3 vmlinuz-6.2\nfifo boot/vmlinuz-6.4\n"
    b"link lib/modules/6.3 /usr/lib/modules/6.2\nfile usr/lib/modules/6.2/modules.dep DEP\n"
    b"socket usr/lib/modules/6.2/modules.softdep\nlink sbin /../sbin\nlink etc/x /proc/self/root",
    b"dir usr/lib/modules/6.1/vmlinuz\nlink boot boot\nlink usr/lib/modules/7 6.1\nfifo bin/sh\n"
    b"file usr/lib/modules/6.1/include/config/kernel.release 6.1\nlink init /bin/sh",
)

TARGETS = (Target("root", run_root, _SEEDS, inputs=60),)
