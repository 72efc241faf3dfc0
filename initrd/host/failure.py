"""What went wrong on the host's side, in words for the user."""

import errno
from contextlib import contextmanager

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator


class HostError(Exception):
    """Why something cannot be done: what failed on what, the reason, and what to try."""

    def __init__(self, what: str, why: str, hint: str = "") -> None:
        super().__init__(what, why, hint)
        self.what, self.why, self.hint = what, why, hint

    def __str__(self) -> str:
        return f"{self.what}: {self.why}" + (f"\ntry: {self.hint}" if self.hint else "")


_SHORT = {  # what may run out at any step, and what to try then
    errno.EMFILE: "ulimit -n 1024",
    errno.ENFILE: "again when fewer files are open on this machine",
    errno.ENOMEM: "again when more memory is free, or a smaller --memory",
    errno.EAGAIN: "fewer processes, or a higher ulimit -u",
    errno.EFBIG: "ulimit -f unlimited",
    errno.ENOSPC: "again with more room in the cache and in /tmp",
}


@contextmanager
def shortage() -> "Iterator[None]":
    """Turn an OSError for what has run out here, at whichever step, into a HostError."""
    try:
        yield
    except OSError as error:
        if error.errno not in _SHORT:
            raise
        raise HostError("cannot go on", reason(error), _SHORT[error.errno]) from error


def reason(error: OSError) -> str:
    """Return the error text of an OSError without its number and path."""
    return error.strerror or str(error)
