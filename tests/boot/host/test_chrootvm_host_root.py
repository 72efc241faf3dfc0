"""chrootvm /: boot the host's own root directory, and other directories with mounts below them.

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
MOUNT_BELOW = """
mount --make-rprivate / && mount --rbind /dev "$1/dev" && mount -t tmpfs t "$1/data" &&
echo mounted >"$1/data/file" && shift && exec "$@"
"""
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


@pytest.mark.parametrize(
    ("attempted_start", "family"), [("cold", "c"), ("warm", "rust")], indirect=["attempted_start"]
)
def test_a_root_with_mounts_below_it_boots_with_an_overlay(family: str, tmp_path: Path) -> None:
    root = tmp_path / "root"
    assets.make_busybox_root(str(root))
    (root / "data").mkdir()
    (root / "data/hidden").write_text("by the mount\n")
    kernel = assets.kernel("bookworm")
    options = ("--overlay", "--kernel", kernel.image, "--modules", kernel.modules, "--verbose")
    script = "cat /data/file; echo changed >/data/file; ls /data; test -c /dev/null && echo dev"
    words = (*COMMAND, "--virtiofsd", FAMILIES[family](), *options, str(root), "--", "sh", "-c")
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", MOUNT_BELOW, "sh", str(root), *words, script],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "mounted\nfile\ndev\n"), done.stderr
    unseen = f"# the guest sees no mounts in {root}, because overlayfs allows none there; the files"
    assert f"{unseen} of {root}/data, {root}/dev" in done.stderr
