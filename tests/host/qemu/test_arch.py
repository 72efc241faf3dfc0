"""The machine that a kernel's image is for."""

import pytest

from initrd.host.qemu.arch import KERNEL_HEAD, kernel_machine
from tests.host.qemu.kernel_images import PACKED, bzimage, elf


def image(offset: int, magic: bytes, size: int = KERNEL_HEAD) -> bytes:
    """Return an image with a mark at an offset."""
    return (bytes(offset) + magic).ljust(size, b"\0")


def pe(machine: int) -> bytes:
    return (b"MZ" + bytes(58) + b"\x40\0\0\0PE\0\0" + machine.to_bytes(2, "little")).ljust(999)


def without_64_bits(kernel: bytes) -> bytes:
    """Return the image of a kernel of 32 bits: XLF_KERNEL_64 is not set."""
    return kernel[:0x236] + b"\0" + kernel[0x237:]


@pytest.mark.parametrize(
    ("head", "machine"),
    [
        pytest.param(bzimage(PACKED), "x86_64", id="bzImage"),
        pytest.param(without_64_bits(bzimage(PACKED)), "i386", id="bzImage of 32 bits"),
        pytest.param(
            without_64_bits(bzimage(PACKED, protocol=0x20B)), "x86_64", id="bzImage before 3.8"
        ),
        pytest.param(image(0x38, b"ARM\x64"), "aarch64", id="Image for arm64"),
        pytest.param(image(0x38, b"RSC\x05"), "riscv64", id="Image for riscv"),
        pytest.param(image(0x10008, b"S390EP"), "s390x", id="bzImage for s390"),
        pytest.param(elf(b""), "x86_64", id="vmlinux"),
        pytest.param(elf(b"", machine=21), "ppc64le", id="vmlinux for powerpc"),
        pytest.param(pe(0xAA64), "aarch64", id="zboot for arm64"),
        pytest.param(pe(0x5064), "riscv64", id="zboot for riscv"),
        pytest.param(pe(0x1234), "", id="another PE program"),
        pytest.param(b"\x1f\x8b\x08" + bytes(999), "", id="Image.gz"),
        pytest.param(b"MZ", "", id="truncated"),
        pytest.param(image(0x202, b"HdrS", 0x206)[:0x206], "x86_64", id="truncated bzImage"),
        pytest.param(b"", "", id="empty"),
    ],
)
def test_machine_of_a_kernel_is_read_from_its_image(head: bytes, machine: str) -> None:
    assert kernel_machine(head) == machine
