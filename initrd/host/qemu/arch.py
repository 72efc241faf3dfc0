"""What differs from one machine architecture to the next: all of it, in this one table.

Sources: QEMU's manual ("System emulator targets"), the kernel's serial drivers for console names.
"""

import os

from initrd.errors import HostError
from initrd.record import Record


class Arch(Record):
    """An architecture, by the name `uname -m` has for it."""

    name: str
    qemu: str  # the program
    package: str  # of Debian, that has the program
    machine: str  # value of -machine, without what is common to all
    console: str  # what the kernel calls the first serial port
    cpu: str = "max"  # under TCG: everything that it can emulate
    transport: str = "pci"  # suffix of the virtio devices' names
    longest_cmdline: int = 2047  # bytes of the kernel command line: COMMAND_LINE_SIZE - 1
    words: tuple[str, ...] = ()  # for every kernel
    emulated_words: tuple[str, ...] = ()  # beyond that, where it is emulated, and alone
    firmware: str = ""  # of QEMU, leaner than its default: enough for a kernel that needs none

    def kernel_words(self, *, emulated: bool) -> tuple[str, ...]:
        """Return what kernels are told. `emulated`: on `machine`, a single processor by TCG."""
        return (*self.words, *self.emulated_words) if emulated else self.words


# q35 without what no guest of ours uses: each of them costs firmware and kernel time.
_Q35 = "q35,hpet=off,smbus=off,sata=off,usb=off,vmport=off"
# TCG runs `rep movsb` byte by byte, and a kernel that is told it is fast (erms, fsrm) copies with
# nothing else: without them everything that copies, streams and files, takes about half the time.
_MAX_X86 = "max,-erms,-fsrm"

ARCHES = (
    Arch(
        "x86_64",
        "qemu-system-x86_64",
        "qemu-system-x86",
        _Q35,
        "ttyS0",
        cpu=_MAX_X86,
        # A timer that is emulated on a busy machine may look broken to a kernel that checks it.
        # On one processor the kernel would replace what locks, a thousand times in its own code:
        # a processor that is emulated translates all of that anew.
        words=("no_timer_check", "noreplace-smp"),
        # Its own timer would be measured against the machine's for a tenth of a second, which
        # serves a single processor as well.
        emulated_words=("nolapic_timer",),
        firmware="qboot.rom",
    ),
    Arch("aarch64", "qemu-system-aarch64", "qemu-system-arm", "virt,gic-version=max", "ttyAMA0"),
    Arch(
        "riscv64",
        "qemu-system-riscv64",
        "qemu-system-misc",
        "virt",
        "ttyS0",
        cpu="rv64",
        longest_cmdline=1023,
    ),
    Arch("ppc64le", "qemu-system-ppc64", "qemu-system-ppc", "pseries", "hvc0", cpu="power9"),
    Arch(
        "s390x",
        "qemu-system-s390x",
        "qemu-system-misc",
        "s390-ccw-virtio",
        "ttysclp0",
        transport="ccw",
        longest_cmdline=895,
    ),
)
_OTHER_NAMES = {"amd64": "x86_64", "arm64": "aarch64", "ppc64el": "ppc64le"}


def find_arch(name: str = "") -> Arch:
    """Return the architecture called `name`, by default the host's. Raises HostError."""
    wanted = name or os.uname().machine
    for arch in ARCHES:
        if arch.name == _OTHER_NAMES.get(wanted, wanted):
            return arch
    known = ", ".join(arch.name for arch in ARCHES)
    raise HostError(f"cannot emulate the architecture {wanted!r}", f"known are {known}")


def is_native(arch: Arch) -> bool:
    """Tell whether the host itself has this architecture."""
    return arch.name == os.uname().machine
