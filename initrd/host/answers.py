"""What another program says of itself."""

import subprocess

from initrd.host.failure import HostError, reason

_TIME = 20.0  # seconds; an answer takes a fraction of one


def answer_of(program: str, *words: str) -> bytes:
    """Return what a program prints, standard error last, whatever its exit status.

    Raises HostError when it cannot be run, or does not end.
    """
    null, command = subprocess.DEVNULL, [program, *words]
    try:
        said = subprocess.run(command, stdin=null, capture_output=True, timeout=_TIME, check=False)
    except OSError as error:
        raise HostError(f"cannot run {program}", reason(error)) from error
    except subprocess.TimeoutExpired as error:
        raise HostError(f"cannot use {program}", f"it does not answer {words[0]}") from error
    return said.stdout + said.stderr
