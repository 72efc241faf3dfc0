"""Disks that the host cannot write: the machine ends, with an error that names the file."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from testbed import assets
from tests.boot.chrootvm import COMMAND, DEADLINE
from tests.boot.images import TOP

pytestmark = pytest.mark.boot

# Mount a small file system on the first argument, in the mount namespace of this shell only.
SMALL = 'mount -t tmpfs -o size=8M small "$0" && exec "$@"'
LIMITED = 'ulimit -f 409600; exec "$@"'  # blocks of 512 bytes: more than the memory, 128M
FILL = "dd if=/dev/zero of=/large bs=1M count=20 2>/dev/null; echo done"
LOST = "the guest's latest changes are lost"
FROM_PYTHON = """\
import sys
from initrd.host import vm
root, image, way = sys.argv[1:]
fill = ["dd", "if=/dev/zero", "of=/large", "bs=1M", "count=20"]
try:
    if way == "run":
        vm.run(root, fill, overlay=image)
    else:
        with vm.boot(root, overlay=image) as machine:
            machine.run(fill, check=True)
            print("filled")
except vm.HostError as error:
    print(error)
"""


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory on which `in_small` mounts a small file system."""
    runtime = tmp_path / "runtime"
    runtime.mkdir(mode=0o700)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(runtime))
    (tmp_path / "small").mkdir()
    return tmp_path / "small"


def in_small(small: Path, *command: str) -> subprocess.CompletedProcess[str]:
    """Run a command that sees a small file system on `small`."""
    return run("unshare", "--mount", "sh", "-c", SMALL, str(small), *command)


def run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=DEADLINE,
        check=False,
        env={**os.environ, "PYTHONPATH": TOP},
    )


def explain(image: Path) -> str:
    """Return the error for an overlay on a full file system."""
    why = f"No space left on device; {LOST}\ntry: again with more room there\n"
    return f"the overlay in {image} cannot be written: {why}"


@pytest.mark.usefixtures("start")
@pytest.mark.parametrize(
    ("script", "output"),
    [
        pytest.param(f"{FILL}; sync; echo synced", "done\n", id="while the command runs"),
        pytest.param(FILL, "done\n", id="after the command, at the end of the machine"),
    ],
)
def test_overlay_on_a_full_disk_ends_the_machine(small: Path, script: str, output: str) -> None:
    words = (f"--overlay={small}/image", assets.busybox_root(), "--", "sh", "-c", script)
    done = in_small(small, *COMMAND, *words)
    assert (done.returncode, done.stdout) == (125, output)
    assert done.stderr == f"chrootvm: {explain(small / 'image')}"


def test_init_on_a_full_disk_ends_with_the_same_error(small: Path) -> None:
    script = f"{FILL}; sync; echo synced; poweroff -f"
    init = ("/bin/busybox", "sh", "-c", script)
    done = in_small(small, *COMMAND, f"--overlay={small}/image", assets.busybox_root(), *init)
    assert done.returncode == 125
    assert "done" in done.stdout
    assert "synced" not in done.stdout
    assert done.stderr.endswith(f"chrootvm: {explain(small / 'image')}")


@pytest.mark.usefixtures("start")
def test_file_that_may_not_grow_ends_the_machine(tmp_path: Path) -> None:
    image = tmp_path / "image"
    with image.open("wb") as file:
        file.truncate(300 << 20)
    script = "dd if=/dev/zero of=/dev/vda bs=1M seek=290 count=1 conv=fsync; echo written"
    words = ("--memory=128M", f"--disk={image}", assets.busybox_root(), "--", "sh", "-c", script)
    done = run("sh", "-c", LIMITED, "sh", *COMMAND, *words)
    assert (done.returncode, done.stdout) == (125, "")
    assert done.stderr == (
        f"chrootvm: the disk {image} cannot be written: File too large; {LOST}\n"
        "try: ulimit -f unlimited\n"
    )


@pytest.mark.usefixtures("start")
def test_named_machine_on_a_full_disk_reports_it_to_its_command(small: Path) -> None:
    words = ("--name", "full", f"--overlay={small}/image", assets.busybox_root(), "--")
    done = in_small(small, *COMMAND, *words, "sh", "-c", FILL)
    assert (done.returncode, done.stdout) == (125, "done\n")
    assert done.stderr == f"chrootvm: {explain(small / 'image')}"


@pytest.mark.usefixtures("start")
@pytest.mark.parametrize("fails", ["--in", "--stop"])
def test_detached_machine_on_a_full_disk_reports_it_to_its_clients(small: Path, fails: str) -> None:
    chrootvm = " ".join(COMMAND)
    sync = "; sync; echo synced" if fails == "--in" else ""
    script = f"""
{chrootvm} --name full --detach --overlay={small}/image {assets.busybox_root()}; echo up $?
{chrootvm} --in full -- sh -c '{FILL}{sync}'; echo command $?
"""
    script += f"{chrootvm} --stop full; echo stop $?\n" if fails == "--stop" else ""
    done = in_small(small, "sh", "-c", script)
    statuses = "command 125\n" if fails == "--in" else "command 0\nstop 125\n"
    assert done.stdout == f"up 0\ndone\n{statuses}"
    assert done.stderr == f"chrootvm: {explain(small / 'image')}"


@pytest.mark.parametrize(("way", "output"), [("run", ""), ("boot", "filled\n")])
def test_full_disk_is_an_error_in_python(small: Path, way: str, output: str) -> None:
    words = (assets.busybox_root(), f"{small}/image", way)
    done = in_small(small, sys.executable, "-c", FROM_PYTHON, *words)
    assert (done.stdout, done.stderr) == (output + explain(small / "image"), "")
