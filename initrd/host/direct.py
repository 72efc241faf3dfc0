"""Starts a kernel without the work of firmware and of its own decompression, where that pays.

It does where the guest's processor is emulated: docs/performance.md has the figures. With KVM, with
a machine of the user's own choice, or with a kernel without such an entry, nothing of it is done.
"""

import os

from initrd.host import locate
from initrd.host.vmlinux import open_kernel
from initrd.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from initrd.host.qemu import Hardware

NAMELESS = "vmlinux"  # what to call a kernel that the cache does not keep


class Direct(Record):
    """What to start instead of the kernel's image, and with which firmware."""

    elf: int = -1  # a descriptor of the uncompressed kernel; -1: the image is what boots
    path: str = ""  # the same in the cache
    firmware: str = ""  # empty: QEMU's own


def direct_start(hardware: "Hardware", kernel: str, qemu: str, cache: str) -> Direct:
    """Return how to start the image `kernel` directly; an empty Direct where that is not done."""
    if hardware.accelerator != "tcg" or not hardware.arch.firmware or hardware.machine:
        return Direct()
    elf = open_kernel(kernel, cache)
    if elf < 0:
        return Direct()
    path = os.readlink(f"/proc/self/fd/{elf}")
    known = path if os.path.exists(path) else NAMELESS
    return Direct(elf, known, locate.find_firmware(hardware.arch.firmware, qemu))
