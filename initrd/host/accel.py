"""Which accelerator runs the guest: KVM where it works, else QEMU's own translation (TCG).

The proof is a tiny guest (`initrd.host.kvm`). Its outcome is remembered until the next boot of the
host, because neither the processor nor the kernel changes before that.
"""

import os

from initrd.host.arch import Arch, is_native
from initrd.host.atomic import replace_file
from initrd.host.failure import HostError
from initrd.host.kvm import WORKS, probe

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

CHOICES = ("auto", "kvm", "tcg")
DEVICE = "/dev/kvm"


def choose(wanted: str, arch: Arch, ask: "Callable[[], str]") -> str:
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
    answer = remember(os.path.join(cache, "kvm"), boot_id(), lambda: probe(device))
    return "" if answer == WORKS else answer


def remember(path: str, boot: str, ask: "Callable[[], str]") -> str:
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
