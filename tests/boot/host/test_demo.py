"""What `make demo` shows, for the small root and for one of the user's."""

import os
import re
import subprocess
from collections.abc import Callable

import pytest

from testbed import assets
from tests.boot import images

pytestmark = pytest.mark.boot


@pytest.mark.parametrize(
    "root", [lambda: "", assets.debian_root], ids=["a root of its own", "a root of the user's"]
)
def test_the_demo_boots_and_powers_off(root: Callable[[], str]) -> None:
    command = [os.path.join(images.TOP, "tools", "demo"), *filter(None, [root()])]
    run = subprocess.run(command, check=True, capture_output=True, text=True)
    assert "I am:           /run/mnt/demo/hello, PID 1\n" in run.stdout
    assert "/ is:           rootfs (virtiofs, ro)\n" in run.stdout
    assert re.match(r"Linux \S+ 6\.1\.", run.stdout.splitlines()[-1])
