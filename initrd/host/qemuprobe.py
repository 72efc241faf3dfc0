"""What a QEMU says of itself."""

import subprocess

from initrd.host.failure import HostError, reason

_ANSWER_TIME = 20.0  # seconds; the answer takes a fraction of one
_SHARING = "vhost-user-fs-"  # the device without which no directory can be shared


def version(program: str) -> str:
    """Return the version. Raises HostError when the program cannot be run."""
    words = _ask(program, "--version").split("\n")[0].split()
    numbers = [word for word in words if word[:1].isdigit()]
    return numbers[0] if numbers else "unknown"


def check(program: str) -> None:
    """Raise HostError for a QEMU that was built without the device that shares directories."""
    if _SHARING not in _ask(program, "-device", "help"):
        raise HostError(
            f"cannot use {program}",
            "it has no vhost-user-fs device",
            "another QEMU: --qemu BIN",
        )


def _ask(program: str, *words: str) -> str:
    try:
        answer = subprocess.run(
            [program, *words],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_ANSWER_TIME,
            check=False,
        )
    except OSError as error:
        raise HostError(f"cannot run {program}", reason(error)) from error
    except subprocess.TimeoutExpired as error:
        raise HostError(f"cannot use {program}", f"it does not answer {words[0]}") from error
    return answer.stdout.decode(errors="replace")
