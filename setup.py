"""Build a wheel that contains `/init`, and is for one architecture only."""

import os
import subprocess
import sys

from setuptools import Distribution, setup
from setuptools.command.build_py import build_py

BUILT_INIT = "dist/init"
WHEEL_INIT = "initrd/freeze/init"  # in the wheel; one of INIT_PLACES of initrd.host.machine.locate


class BuildWithInit(build_py):
    """Add `/init` to the modules of the wheel; build it where it is missing."""

    def run(self) -> None:
        """Copy the modules and the program; an editable install uses the checkout's."""
        super().run()
        if self.editable_mode:
            return
        if not os.path.exists(BUILT_INIT):
            subprocess.run(["make", "build", f"PYTHON={sys.executable}"], check=True)  # noqa: S607
        self.copy_file(BUILT_INIT, os.path.join(self.build_lib, WHEEL_INIT))


class ArchitectureDistribution(Distribution):
    """A distribution whose wheel is for the architecture of this machine."""

    def has_ext_modules(self) -> bool:
        """Return True, which gives the wheel a platform tag."""
        return True


setup(cmdclass={"build_py": BuildWithInit}, distclass=ArchitectureDistribution)
