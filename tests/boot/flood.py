"""The program of flood.c, with which hostile root in a guest floods a port of PID 1."""

import os
import subprocess

from testbed.assets import make_once

_SOURCE = os.path.abspath(f"{__file__}/../flood.c")


def directory() -> str:
    """Return the path of a directory that has the static program `flood`."""
    with open(_SOURCE, encoding="utf-8") as file:
        source = file.read()

    def make(top: str) -> None:
        command = ["cc", "-O1", "-Wall", "-Wextra", "-static", _SOURCE, "-o", f"{top}/flood"]
        subprocess.run(command, check=True)

    return make_once("flood", make, source)
