"""What a QEMU says of itself."""

from initrd.host.answers import answer_of
from initrd.host.failure import HostError

_SHARING = b"vhost-user-fs-"  # the device without which no directory can be shared


def version(program: str) -> str:
    """Return the version. Raises HostError when the program cannot be run."""
    words = answer_of(program, "--version").decode(errors="replace").split("\n")[0].split()
    numbers = [word for word in words if word[:1].isdigit()]
    return numbers[0] if numbers else "unknown"


def check(program: str) -> None:
    """Raise HostError for a QEMU that was built without the device that shares directories."""
    if _SHARING not in answer_of(program, "-device", "help"):
        raise HostError(
            f"cannot use {program}",
            "it has no vhost-user-fs device",
            "another QEMU: --qemu BIN",
        )
