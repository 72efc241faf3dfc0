"""OCI bundles for the guests of the tests, and crun from Debian's package to run them."""

import json
import os
import shutil
import subprocess

from testbed import assets
from tests.boot.conftest import write

# crun reads /sys/fs/cgroup first, even with --cgroup-manager=disabled.
CGROUPS = "mount -t cgroup2 cgroup2 /sys/fs/cgroup"
# crun uses pivot_root(2) unless --no-pivot is given.
RUN = "crun --root /run/crun --cgroup-manager=disabled run --bundle {} test"
SCRIPT = """
echo "pid $$"; echo "root $(awk '$2 == "/" { print $3 }' /proc/mounts)"; ls /
echo written 2>&1 >/written; cat /written
"""
_FOLDERS = ("bin", "dev", "proc", "sys", "tmp")


def add_runtime(root: str) -> None:
    """Copy crun and the libraries that it needs into a root directory."""
    debian = assets.debian_root()
    copies = {path: path for path in ("/usr/bin/crun", *_libraries(debian, "/usr/bin/crun"))}
    copies["/lib64/ld-linux-x86-64.so.2"] = assets.LOADER
    for path, source in copies.items():
        os.makedirs(os.path.dirname(root + path), exist_ok=True)
        shutil.copy(debian + source, root + path)


def make_bundle(path: str, *, rootfs: str = "rootfs", readonly: bool = False) -> str:
    """Make a bundle at `path`, with a busybox system in its directory `rootfs`; return `path`."""
    for name in {rootfs, "rootfs"}:
        os.makedirs(f"{path}/{name}")
    for name in _FOLDERS:
        os.mkdir(f"{path}/{rootfs}/{name}")
    shutil.copy(assets.busybox(), f"{path}/{rootfs}/bin/busybox")
    for name in ("awk", "cat", "ls", "sh"):
        os.symlink("busybox", f"{path}/{rootfs}/bin/{name}")
    write(f"{path}/config.json", json.dumps(_config(readonly=readonly)))
    return path


def check_container_output(output: str, *, fstype: str = "") -> None:
    """Assert that SCRIPT's output is that of a container with a root of type `fstype`."""
    assert "pid 1\n" in output, output
    assert f"root {fstype}" in output, output
    assert {*_FOLDERS} <= set(output.split()), output
    assert "c" not in output.split(), "the machine's root shows in the container"


def _config(*, readonly: bool) -> dict[str, object]:
    """Return a minimal configuration (OCI runtime specification, config.md)."""
    return {
        "ociVersion": "1.0.0",
        "root": {"path": "rootfs", "readonly": readonly},
        "process": {
            "cwd": "/",
            "args": ["/bin/sh", "-c", SCRIPT],
            "env": ["PATH=/bin"],
            "user": {"uid": 0, "gid": 0},
        },
        "mounts": [{"destination": "/proc", "type": "proc", "source": "proc"}],
        "linux": {"namespaces": [{"type": name} for name in ("pid", "mount", "ipc", "uts")]},
    }


def _libraries(root: str, program: str) -> list[str]:
    """Return the paths, in a root directory, of the libraries of a program there."""
    library_path = ":".join(f"{root}{prefix}/lib/x86_64-linux-gnu" for prefix in ("", "/usr"))
    command = [root + assets.LOADER, "--library-path", library_path, "--list", root + program]
    listed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    words = [word for line in listed.splitlines() for word in line.split()[2:3]]
    return [word.removeprefix(root) for word in words if word.startswith(root)]
