"""How many files virtiofsd may have open: it has one for each that the guest knows of.

The one in Rust can note what a file is instead, where it may open files by such a handle.
Source: open_by_handle_at(2), getrlimit(2).
"""

import resource

from initrd.host import sandbox

ENOUGH = 500_000  # systemd gives 524,288 to all that it starts
LEAST = 610  # the one in Rust, 1.13, does not start with less


def limit() -> int:
    """Return how many files a program that is started here may have open."""
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    return ENOUGH if most == resource.RLIM_INFINITY else most


def need_handles() -> bool:
    """Tell whether few files may be open here, and handles are there to make up for that."""
    return limit() < ENOUGH and sandbox.may(sandbox.CAP_DAC_READ_SEARCH)
