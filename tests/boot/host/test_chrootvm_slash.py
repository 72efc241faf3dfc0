"""chrootvm /: this machine's own root directory, with a kernel of its own.

The kernel is mounted at /boot, as a package would have put it there: in a mount namespace of the
test's own, so that this machine has none afterwards.
"""

import os
import subprocess
from pathlib import Path

import pytest

from testbed import assets
from tests.boot.chrootvm import COMMAND, DEADLINE

pytestmark = pytest.mark.boot

WITH_A_KERNEL = 'mount --make-rprivate / && mount --bind "$1" /boot && shift && exec "$@"'


FAMILIES = {"c": assets.c_virtiofsd, "rust": assets.rust_virtiofsd}
NEW = "/etc/made-by-a-test-of-chrootvm"
SCRIPT = f"uname -r; cat /etc/os-release; touch {NEW}; test -e /proc/self/stat && echo proc"


@pytest.mark.parametrize("family", FAMILIES)
def test_this_machines_root_boots(family: str) -> None:
    kernel = assets.kernel("bookworm")
    boot = os.path.dirname(kernel.image)
    options = ("--virtiofsd", FAMILIES[family](), "--modules", kernel.modules)
    words = (*COMMAND, *options, "/", "--", "sh", "-c", SCRIPT)
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", WITH_A_KERNEL, "sh", boot, *words],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        check=False,
    )
    release = Path("/etc/os-release").read_text(encoding="utf-8")
    assert (done.returncode, done.stdout) == (0, f"{kernel.version}\n{release}proc\n")
    assert "Read-only file system" in done.stderr
    assert not os.path.exists(NEW)
