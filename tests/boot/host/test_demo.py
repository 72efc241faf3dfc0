"""The output of tools/demo, with its default root directory and with a given one."""

import os
import re
import subprocess
from collections.abc import Callable

import pytest

from testbed import assets
from tests.boot import images

pytestmark = pytest.mark.boot


@pytest.mark.parametrize(
    "root", [lambda: "", assets.debian_root], ids=["default root", "given root"]
)
def test_the_demo_boots_and_powers_off(root: Callable[[], str]) -> None:
    command = [os.path.join(images.TOP, "tools", "demo"), *filter(None, [root()])]
    result = subprocess.run(command, check=True, capture_output=True, text=True)
    assert "I am:           /run/mnt/demo/hello, PID 1\n" in result.stdout
    assert "/ is:           rootfs (virtiofs, ro)\n" in result.stdout
    assert re.match(r"Linux \S+ 6\.1\.", result.stdout.splitlines()[-1])
