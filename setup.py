"""What pyproject.toml cannot say: a wheel holds `/init`, which is built for one architecture."""

import os
import subprocess
import sys

from setuptools import Distribution, setup
from setuptools.command.build_py import build_py

BUILT = "dist/init"
INSIDE = "initrd/freeze/init"  # of the wheel; where initrd.host.machine.locate looks for it


class BuildWithInit(build_py):
    """Builds `/init` first, if it has not been, and puts it beside the modules."""

    def run(self) -> None:
        """Copy the modules and the program; an editable install uses the checkout's."""
        super().run()
        if self.editable_mode:
            return
        if not os.path.exists(BUILT):
            # Whoever builds has a make of their own choice.
            subprocess.run(["make", "build", f"PYTHON={sys.executable}"], check=True)  # noqa: S607
        self.copy_file(BUILT, os.path.join(self.build_lib, INSIDE))


class OfOneArchitecture(Distribution):
    """Its wheel is not for every machine."""

    def has_ext_modules(self) -> bool:
        """Say so."""
        return True


setup(cmdclass={"build_py": BuildWithInit}, distclass=OfOneArchitecture)
