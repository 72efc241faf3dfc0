"""Load a C library that may not be there, and say what to install when it is not."""

import ctypes

from initrd.host.failure import HostError


def load(soname: str, *, debian: str, fedora: str) -> ctypes.CDLL:
    """Return the library `soname`; `debian` and `fedora` are the packages that bring it.

    Raises HostError.
    """
    try:
        return ctypes.CDLL(soname)
    except OSError as error:  # dlopen(3) tells its reasons in words only
        raise HostError(
            f"cannot load the library {soname}",
            str(error),
            f"install {debian} (Debian, Ubuntu) or {fedora} (Fedora)",
        ) from None
