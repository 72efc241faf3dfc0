"""Which accelerator runs the guest: KVM where it works, else QEMU's own translation (TCG).

The proof is a guest of three instructions. Its outcome is remembered until the next boot of the
host, because neither the processor nor the kernel changes before that. That /dev/kvm opens proves
little: some virtual machines offer a KVM which emulates most guests, or in which they hang. The
guest is real-mode code with an instruction (popcnt) that processors execute and that the emulator
inside KVM does not.

Source: the kernel's `Documentation/virt/kvm/api.rst`; the offsets are those of `struct kvm_sregs`,
`struct kvm_regs` and `struct kvm_run` on x86.
"""

import ctypes
import fcntl
import mmap
import os
import struct

from initrd.errors import HostError, reason
from initrd.host.qemu.arch import Arch, is_native
from initrd.host.system.files import replace_file
from initrd.host.system.process import run_in_child

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

CHOICES = ("auto", "kvm", "tcg")
DEVICE = "/dev/kvm"
KVM_WORKS = "works"
_CREATE_VM, _GET_VCPU_MMAP_SIZE, _CREATE_VCPU, _RUN = 0xAE01, 0xAE04, 0xAE41, 0xAE80
_SET_USER_MEMORY_REGION = 0x4020AE46
_GET_REGS, _SET_REGS, _REGS_SIZE = 0x8090AE81, 0x4090AE82, 144
_GET_SREGS, _SET_SREGS, _SREGS_SIZE = 0x8138AE83, 0x4138AE84, 312
_RIP_OFFSET, _EXIT_REASON_OFFSET = 128, 8
_EXIT_HLT = 5
_PAGE, _LOAD_ADDRESS = 4096, 0x1000
_PROGRAM = bytes.fromhex("b80f01 f30fb8c0 f4")  # mov ax, 0x10f; popcnt ax, ax; hlt
_BITS_SET = 5  # in 0x10f


def choose_accelerator(wanted: str, arch: Arch, ask: "Callable[[], str]") -> str:
    """Return `kvm` or `tcg`. `ask` says why KVM does not work; nothing when it does.

    Raises HostError when KVM is wanted and cannot be had.
    """
    if wanted == "tcg":
        return "tcg"
    why_not = ask() if is_native(arch) else f"the guest is {arch.name} and this machine is not"
    if wanted == "kvm" and why_not:
        raise HostError("cannot use KVM", why_not, "--accel tcg, which works everywhere but slower")
    return "tcg" if why_not else "kvm"


def why_no_kvm(cache: str, device: str = DEVICE) -> str:
    """Return why KVM does not work here; empty when it does. `cache`: where answers are kept."""
    if not os.path.exists(device):
        return f"{device} does not exist"
    if not os.access(device, os.R_OK | os.W_OK):
        return f"{device} is not for this user; the group kvm may have access"
    answer = remember_answer(os.path.join(cache, "kvm"), boot_id(), lambda: probe_kvm(device))
    return "" if answer == KVM_WORKS else answer


def remember_answer(path: str, boot: str, ask: "Callable[[], str]") -> str:
    """Return the answer kept in the file `path` if it is of this boot; else ask, and keep it."""
    known = _read(path)
    if boot and known.startswith(f"{boot} "):
        return known.removeprefix(f"{boot} ")
    answer = ask()
    try:
        os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
        replace_file(path, f"{boot} {answer}\n".encode())
    except OSError:  # a cache that cannot be written costs milliseconds, the next time
        pass
    return answer


def _read(path: str) -> str:
    try:
        with open(path, encoding="utf-8") as file:
            return file.read().rstrip("\n")
    except OSError:  # not there yet, or not ours to read: then it is asked again
        return ""


def boot_id() -> str:
    """Return the name of this boot of the host; empty where the kernel does not tell."""
    return _read("/proc/sys/kernel/random/boot_id")


def probe_kvm(device: str = "/dev/kvm") -> str:
    """Return `WORKS`, or why KVM does not work. Takes milliseconds; a second when it hangs."""
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
    _enter_real_mode(processor)
    run = mmap.mmap(processor, fcntl.ioctl(kvm, _GET_VCPU_MMAP_SIZE, 0))
    fcntl.ioctl(processor, _RUN, 0)
    (why,) = struct.unpack_from("I", run, _EXIT_REASON_OFFSET)
    registers = bytearray(_REGS_SIZE)
    fcntl.ioctl(processor, _GET_REGS, registers)
    memory.close()
    (result,) = struct.unpack_from("H", registers)
    if (why, result) == (_EXIT_HLT, _BITS_SET):
        return KVM_WORKS
    return "it emulates guests instead of running them on the processor"


def _load_program(machine: int) -> mmap.mmap:
    memory = mmap.mmap(-1, _PAGE)
    memory.write(_PROGRAM)
    window = ctypes.c_char.from_buffer(memory)
    address = ctypes.addressof(window)
    del window  # the mapping cannot be closed while something points into it
    region = struct.pack("IIQQQ", 0, 0, _LOAD_ADDRESS, _PAGE, address)
    fcntl.ioctl(machine, _SET_USER_MEMORY_REGION, region)
    return memory


def _enter_real_mode(processor: int) -> None:
    special = bytearray(_SREGS_SIZE)
    fcntl.ioctl(processor, _GET_SREGS, special)
    struct.pack_into("QIH", special, 0, 0, 0xFFFF, 0)  # the code segment begins at 0
    fcntl.ioctl(processor, _SET_SREGS, special)
    general = bytearray(_REGS_SIZE)
    struct.pack_into("QQ", general, _RIP_OFFSET, _LOAD_ADDRESS, 2)  # rip; bit 1 of rflags is 1
    fcntl.ioctl(processor, _SET_REGS, general)
