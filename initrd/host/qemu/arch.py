"""The table of guest architectures: QEMU's program and options, console, kernel parameters.

Everything that depends on the architecture is in this table.

Sources: QEMU's manual ("System emulator targets"), the kernel's serial drivers for console names.
Of `kernel_machine`: the kernel's Documentation/arch/x86/boot.rst, arm64/booting.rst and
riscv/boot-image-header.rst, and its arch/s390/boot/head.S; the PE format, for kernels that firmware
can start.
"""

import os

from initrd.elf import elf_machine
from initrd.host.system.hosterror import HostError
from initrd.record import Record


class Arch(Record):
    """A guest architecture. `name` is the one that `uname -m` prints."""

    name: str
    qemu: str  # name of QEMU's program
    package: str  # the Debian package of that program
    machine: str  # value of -machine, without the properties that all architectures share
    console: str  # the kernel's name of the first serial port
    image: str  # path of the kernel's image in a build tree
    cpu: str = "max"  # value of -cpu under TCG; max: every feature that TCG can emulate
    transport: str = "pci"  # suffix of the virtio devices' names
    max_cmdline: int = 2047  # bytes of the kernel command line: COMMAND_LINE_SIZE - 1
    parameters: tuple[str, ...] = ()  # kernel parameters of every guest
    emulated_parameters: tuple[str, ...] = ()  # added for a guest with one processor under TCG
    firmware: str = ""  # a smaller firmware of QEMU's, for kernels that use no firmware service

    def kernel_parameters(self, *, emulated: bool) -> tuple[str, ...]:
        """Return the kernel parameters for this architecture.

        `emulated`: the guest is the machine type `machine` with one processor, under TCG.
        """
        return (*self.parameters, *self.emulated_parameters) if emulated else self.parameters


# q35 without the devices that no guest uses: firmware and kernel spend time on each of them.
_Q35 = "q35,hpet=off,smbus=off,sata=off,usb=off,vmport=off"
# TCG executes `rep movsb` byte by byte. A kernel that finds the CPU features erms and fsrm copies
# memory with that instruction only. Without them, copying of streams and files takes about half
# the time.
_MAX_X86 = "max,-erms,-fsrm"

ARCHES = (
    Arch(
        "x86_64",
        "qemu-system-x86_64",
        "qemu-system-x86",
        _Q35,
        "ttyS0",
        "arch/x86/boot/bzImage",
        cpu=_MAX_X86,
        # no_timer_check: on a busy host, an emulated timer may fail the kernel's check of it.
        # noreplace-smp: on one processor the kernel would patch the lock instructions in its own
        # code, at a thousand places, and TCG would have to translate that code again.
        parameters=("no_timer_check", "noreplace-smp"),
        # The kernel would calibrate the local APIC timer against the platform's timer for 0.1 s.
        # The platform's timer is enough for one processor.
        emulated_parameters=("nolapic_timer",),
        firmware="qboot.rom",
    ),
    Arch(
        "aarch64",
        "qemu-system-aarch64",
        "qemu-system-arm",
        "virt,gic-version=max",
        "ttyAMA0",
        "arch/arm64/boot/Image",
        # Without this, TCG computes the architecture's algorithm of pointer authentication, which
        # takes more than half of the time of a boot.
        cpu="max,pauth-impdef=on",
    ),
    Arch(
        "riscv64",
        "qemu-system-riscv64",
        "qemu-system-misc",
        "virt",
        "ttyS0",
        "arch/riscv/boot/Image",
        cpu="rv64",
        max_cmdline=1023,
    ),
    Arch(
        "ppc64le",
        "qemu-system-ppc64",
        "qemu-system-ppc",
        "pseries",
        "hvc0",
        "arch/powerpc/boot/zImage",
        cpu="power9",
    ),
    Arch(
        "s390x",
        "qemu-system-s390x",
        "qemu-system-misc",
        "s390-ccw-virtio",
        "ttysclp0",
        "arch/s390/boot/bzImage",
        transport="ccw",
        max_cmdline=895,
    ),
)
_DEBIAN_NAMES = {"amd64": "x86_64", "arm64": "aarch64", "ppc64el": "ppc64le"}

KERNEL_HEAD = (1 << 16) + 16  # bytes at the start of an image that `kernel_machine` looks at
_X86_PROTOCOL, _X86_64_BIT = 0x20C, 1  # the first version with `xloadflags`; XLF_KERNEL_64 in it
_PE_MACHINES = {0x8664: "x86_64", 0x14C: "i386", 0xAA64: "aarch64", 0x5064: "riscv64"}


def find_arch(name: str = "") -> Arch:
    """Return the architecture of this name, or of this Debian name; by default the host's.

    Raises HostError for an unknown name.
    """
    requested = name or os.uname().machine
    for arch in ARCHES:
        if arch.name == _DEBIAN_NAMES.get(requested, requested):
            return arch
    known = ", ".join(arch.name for arch in ARCHES)
    raise HostError(f"cannot emulate the architecture {requested!r}", f"known are {known}")


def is_native(arch: Arch) -> bool:
    """Return whether the host has this architecture."""
    return arch.name == os.uname().machine


def kernel_machine(head: bytes) -> str:
    """Return the machine that a kernel is for, from the first KERNEL_HEAD bytes of its image.

    It is empty where they do not tell, as of a compressed image for arm64.
    """
    if head[0x202:0x206] == b"HdrS":
        return _x86_machine(head)
    if head[0x38:0x3C] == b"ARM\x64":
        return "aarch64"
    if head[0x38:0x3C] == b"RSC\x05":
        return "riscv64"
    if head[0x10008:0x1000E] == b"S390EP":
        return "s390x"
    return elf_machine(head) or _pe_machine(head)


def _x86_machine(head: bytes) -> str:
    protocol = int.from_bytes(head[0x206:0x208], "little")
    has_64_bits = protocol < _X86_PROTOCOL or int.from_bytes(head[0x236:0x237]) & _X86_64_BIT
    return "x86_64" if has_64_bits else "i386"


def _pe_machine(head: bytes) -> str:
    """Return the machine of a PE program, such as a kernel that decompresses itself (zboot)."""
    start = int.from_bytes(head[0x3C:0x40], "little")
    if not head.startswith(b"MZ") or head[start : start + 4] != b"PE\0\0":
        return ""
    return _PE_MACHINES.get(int.from_bytes(head[start + 4 : start + 6], "little"), "")
