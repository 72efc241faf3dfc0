"""The program of flood.c, with which hostile root in a guest floods a port of PID 1."""

import os

from testbed.assets import make_program

_SOURCE = os.path.abspath(f"{__file__}/../flood.c")


def directory() -> str:
    """Return the path of a directory that has the static program `flood`."""
    return make_program("flood", _SOURCE)
