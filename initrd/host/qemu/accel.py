"""Choose the accelerator of a guest: KVM where it works, else QEMU's translation (TCG).

An open(2) of /dev/kvm does not prove that KVM works: in some virtual machines KVM emulates most
guests, or they hang. So KVM runs a guest of three instructions. It is real-mode code with an
instruction (popcnt) that processors execute and that the emulator inside KVM does not implement.
The result is cached until the host boots again, because neither the processor nor the kernel
changes before that.

Source: the kernel's `Documentation/virt/kvm/api.rst`; the offsets are those of `struct kvm_sregs`,
`struct kvm_regs` and `struct kvm_run` on x86.
"""

import ctypes
import fcntl
import mmap
import os
import struct

from initrd.errors import reason
from initrd.host.qemu.arch import Arch, is_native
from initrd.host.system.cached import Cache
from initrd.host.system.hosterror import HostError
from initrd.host.system.private import PrivateFolder
from initrd.host.system.process import run_in_child

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

CHOICES = ("auto", "kvm", "tcg")
DEVICE = "/dev/kvm"
KVM_WORKS = "works"
RESULT = "kvm"  # the file in the cache
_MAX_RESULT = 4096  # bytes
# ioctl requests of include/uapi/linux/kvm.h, and the sizes of the structures that they copy.
_CREATE_VM, _GET_VCPU_MMAP_SIZE, _CREATE_VCPU, _RUN = 0xAE01, 0xAE04, 0xAE41, 0xAE80
_SET_USER_MEMORY_REGION = 0x4020AE46
_GET_REGS, _SET_REGS, _REGS_SIZE = 0x8090AE81, 0x4090AE82, 144
_GET_SREGS, _SET_SREGS, _SREGS_SIZE = 0x8138AE83, 0x4138AE84, 312
_RIP_OFFSET, _EXIT_REASON_OFFSET = 128, 8
_EXIT_HLT = 5
# The guest: its memory is one page, and the program is at the start of that.
_PAGE, _LOAD_ADDRESS = 4096, 0x1000
_PROGRAM = bytes.fromhex("b80f01 f30fb8c0 f4")  # mov ax, 0x10f; popcnt ax, ax; hlt
_EXPECTED_AX = 5  # the bits that are set in 0x10f


def choose_accelerator(choice: str, arch: Arch, check_kvm: "Callable[[], str]") -> str:
    """Return `kvm` or `tcg`, for one of CHOICES.

    `check_kvm` returns why KVM does not work; empty when it works. Raises HostError when `choice`
    is `kvm` and KVM does not work.
    """
    if choice == "tcg":
        return "tcg"
    problem = (
        check_kvm() if is_native(arch) else f"the guest is {arch.name} and this machine is not"
    )
    if choice == "kvm" and problem:
        hint = "--accel tcg, which works everywhere but slower"
        raise HostError("cannot use KVM", problem, hint)
    return "tcg" if problem else "kvm"


def find_kvm_problem(cache: Cache, device: str = DEVICE) -> str:
    """Return why KVM does not work on this host; empty when it works.

    The result of the test is kept in the cache.
    """
    if not os.path.exists(device):
        return f"{device} does not exist"
    if not os.access(device, os.R_OK | os.W_OK):
        return f"{device} is not for this user; the group kvm may have access"
    result = cached_result(cache, read_boot_id(), lambda: probe_kvm(device))
    return "" if result == KVM_WORKS else result


def cached_result(cache: Cache, boot_id: str, probe: "Callable[[], str]") -> str:
    """Return the result in the cache, if it is of this boot; else save that of `probe`.

    With an empty `boot_id` no saved result is used.
    """
    saved = _read_result(cache.folder) if cache.folder else ""
    if boot_id and saved.startswith(f"{boot_id} "):
        return saved.removeprefix(f"{boot_id} ")
    result = probe()
    if cache.folder:
        _write_result(cache.folder, f"{boot_id} {result}\n")
    return result


def _read_result(folder: PrivateFolder) -> str:
    try:
        return folder.read_file(RESULT, _MAX_RESULT).decode(errors="replace").rstrip("\n")
    except (OSError, HostError):  # missing, or not for this user alone: KVM is tried again
        return ""


def _write_result(folder: PrivateFolder, text: str) -> None:
    try:
        # After a crash of the host the content is of no use anyway: it is of another boot.
        folder.write_file(RESULT, text.encode(), durable=False)
    except OSError:  # without the cache, the next call takes some milliseconds longer
        pass


def read_boot_id() -> str:
    """Return the kernel's identifier of the current boot; empty where the kernel has none."""
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            return file.read().rstrip("\n")
    except OSError:
        return ""


def probe_kvm(device: str = DEVICE) -> str:
    """Run a guest with KVM. Return KVM_WORKS, or why KVM does not work.

    Takes milliseconds; a second when the guest hangs.
    """
    try:
        kvm = os.open(device, os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        return f"{device} cannot be opened: {reason(error)}"
    try:
        return run_in_child(lambda: _try_guest(kvm)) or "a guest of three instructions hangs"
    finally:
        os.close(kvm)


def _try_guest(kvm: int) -> str:
    try:
        return _run_guest(kvm)
    except OSError as error:
        return f"KVM refuses a guest: {reason(error)}"


def _run_guest(kvm: int) -> str:
    machine = fcntl.ioctl(kvm, _CREATE_VM, 0)
    processor = fcntl.ioctl(machine, _CREATE_VCPU, 0)
    if os.uname().machine != "x86_64":
        return KVM_WORKS  # elsewhere a processor exists only where the hardware can run it
    memory = _load_program(machine)
    _set_registers(processor)
    run = mmap.mmap(processor, fcntl.ioctl(kvm, _GET_VCPU_MMAP_SIZE, 0))
    fcntl.ioctl(processor, _RUN, 0)
    (exit_reason,) = struct.unpack_from("I", run, _EXIT_REASON_OFFSET)
    registers = bytearray(_REGS_SIZE)
    fcntl.ioctl(processor, _GET_REGS, registers)
    memory.close()
    (ax,) = struct.unpack_from("H", registers)
    if (exit_reason, ax) == (_EXIT_HLT, _EXPECTED_AX):
        return KVM_WORKS
    return "it emulates guests instead of running them on the processor"


def _load_program(machine: int) -> mmap.mmap:
    memory = mmap.mmap(-1, _PAGE)
    memory.write(_PROGRAM)
    pointer = ctypes.c_char.from_buffer(memory)
    address = ctypes.addressof(pointer)
    del pointer  # an mmap object cannot be closed while something points into it
    region = struct.pack("IIQQQ", 0, 0, _LOAD_ADDRESS, _PAGE, address)
    fcntl.ioctl(machine, _SET_USER_MEMORY_REGION, region)
    return memory


def _set_registers(processor: int) -> None:
    """Set up the processor to run the program in real mode, which it is in after a reset."""
    special = bytearray(_SREGS_SIZE)
    fcntl.ioctl(processor, _GET_SREGS, special)
    struct.pack_into("QIH", special, 0, 0, 0xFFFF, 0)  # the code segment begins at 0
    fcntl.ioctl(processor, _SET_SREGS, special)
    general = bytearray(_REGS_SIZE)
    struct.pack_into("QQ", general, _RIP_OFFSET, _LOAD_ADDRESS, 2)  # rip; bit 1 of rflags is 1
    fcntl.ioctl(processor, _SET_REGS, general)
