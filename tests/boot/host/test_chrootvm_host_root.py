"""chrootvm /: boot the host's own root directory.

A directory with a kernel is bind-mounted at /boot, where a kernel package would install it. This is
done in a new mount namespace, so that the host's mounts do not change.
"""

import os
import subprocess
from pathlib import Path

import pytest

from testbed import assets
from tests.boot.chrootvm import COMMAND, DEADLINE

pytestmark = [pytest.mark.boot, pytest.mark.usefixtures("start")]

MOUNT_KERNEL = 'mount --make-rprivate / && mount --bind "$1" /boot && shift && exec "$@"'
FAMILIES = {"c": assets.c_virtiofsd, "rust": assets.rust_virtiofsd}
NEW_FILE = "/etc/made-by-a-test-of-chrootvm"
SCRIPT = f"uname -r; cat /etc/os-release; touch {NEW_FILE}; test -e /proc/self/stat && echo proc"


@pytest.mark.parametrize("family", FAMILIES)
def test_the_hosts_root_directory_boots(family: str) -> None:
    kernel = assets.kernel("bookworm")
    boot = os.path.dirname(kernel.image)
    options = ("--virtiofsd", FAMILIES[family](), "--modules", kernel.modules)
    words = (*COMMAND, *options, "/", "--", "sh", "-c", SCRIPT)
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", MOUNT_KERNEL, "sh", boot, *words],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        check=False,
    )
    release = Path("/etc/os-release").read_text(encoding="utf-8")
    assert (done.returncode, done.stdout) == (0, f"{kernel.version}\n{release}proc\n")
    assert "Read-only file system" in done.stderr
    assert not os.path.exists(NEW_FILE)
