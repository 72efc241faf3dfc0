"""Container bundles: prepared by /init or by the bundle program, run by crun, cleaned up."""

import os
import shutil

import pytest

from testbed import assets
from tests.boot import containers, images, machine
from tests.boot.conftest import make_root, write

pytestmark = pytest.mark.boot

READ_ONLY, WRITABLE = "/run/mnt/b/read-only", "/run/mnt/b/a, writable:one"
BY_HAND = "/run/mnt/b/by hand"  # prepared by the script, not by /init

INVALID = {
    "no rootfs": "rootfs: missing",
    "lower a file": "lower: that is no directory",
    "rootfs a link": "rootfs: that is no directory",
    "missing": "No such file or directory",
}

# Debian's Python runs the program `initrd.guest.roots.bundle` from the source checkout.
SCRIPT = f"""
import os, sys

report = os.open("/dev/ttyS1", os.O_WRONLY)
os.dup2(report, 1)
os.dup2(report, 2)
os.environ["PATH"] = "/usr/sbin:/usr/bin"
sys.path.insert(0, "/run/mnt/src")
from initrd.guest.roots.bundle import main


def section(name, command=""):
    print(f"\\n=== {{name}}", flush=True)
    os.system(command)


def run(name, path):
    if os.path.exists(f"{{path}}/rootfs/bin"):
        section(name, "{containers.RUN} 2>&1".format(f'"{{path}}"'))


def read_mountinfo():
    with open("/proc/self/mountinfo") as file:
        return file.read()


def run_bundle_program(name, action, path="{BY_HAND}"):
    section(name)
    print("status", main([action, path]), flush=True)
    new = set(read_mountinfo().splitlines()) - set(before.splitlines())
    print("same" if read_mountinfo() == before else "\\n".join(new))


section("mounts", "cat /proc/self/mountinfo")
section("memory", "head -n 1 /proc/meminfo")
os.system("{containers.CGROUPS}")
run("read-only", "{READ_ONLY}")
run("writable", "{WRITABLE}")
section("upper", 'ls "{WRITABLE}/tmp/upper"')
os.system("mount --make-rshared /")
before = read_mountinfo()
run_bundle_program("prepared", "prepare")
run("run by hand", "{BY_HAND}")
if os.path.exists("{BY_HAND}/rootfs/bin"):
    os.system('mount -t tmpfs within "{BY_HAND}/rootfs/tmp"')
    os.chdir("{BY_HAND}/rootfs/bin")
    run_bundle_program("busy", "cleanup")
    os.chdir("/")
run_bundle_program("cleaned", "cleanup")
run_bundle_program("again", "cleanup")
for name in {tuple(INVALID)}:
    run_bundle_program(name, "prepare", f"/run/mnt/b/{{name}}")
run_bundle_program("usage", "undo")
os.close(1), os.close(2), os.close(report)
os.system("/run/mnt/b/busybox poweroff -f")
"""


@pytest.fixture(scope="module")
def bundles(shared_directory: str) -> str:
    """Make a directory with valid and invalid bundles."""
    top = f"{shared_directory}/bundles"
    for name in (READ_ONLY, WRITABLE, BY_HAND):
        path = f"{top}/{os.path.basename(name)}"
        read_only = name == READ_ONLY
        lower = "rootfs" if read_only else "lower"
        containers.make_bundle(path, rootfs=lower, readonly=read_only)
        if not read_only:
            os.mkdir(f"{path}/tmp")
    for name in ("no rootfs/lower", "no rootfs/tmp", "lower a file/rootfs", "lower a file/tmp"):
        os.makedirs(f"{top}/{name}")
    write(f"{top}/lower a file/lower", "")
    os.makedirs(f"{top}/rootfs a link")
    os.symlink("/usr", f"{top}/rootfs a link/rootfs")
    shutil.copy(assets.busybox(), f"{top}/busybox")
    write(f"{top}/script", SCRIPT)
    return top


@pytest.fixture(scope="module")
def boot(bundles: str, shared_directory: str) -> machine.Boot:
    options = f'initrd.bundle={READ_ONLY} initrd.bundle="{WRITABLE}"'
    return _boot(bundles, f"{shared_directory}/boot", options)


@pytest.fixture(scope="module")
def without_overlayfs(bundles: str, shared_directory: str) -> machine.Boot:
    """The kernel refuses the overlay module, and /init prepares only the read-only bundle."""
    options = f"initrd.bundle={READ_ONLY} module_blacklist=overlay"
    return _boot(bundles, f"{shared_directory}/without", options)


def test_init_mounts_the_bundles_of_the_kernel_command_line(boot: machine.Boot) -> None:
    mounts = parse_mountinfo(boot.section("mounts"))
    assert mounts[f"{READ_ONLY}/rootfs"][0] == "virtiofs"
    assert mounts[f"{WRITABLE}/rootfs"][0] == "overlay"
    kind, options = mounts[f"{WRITABLE}/tmp"]
    (size,) = [word for word in options.split(",") if word.startswith("size=")]
    expected_kilobytes = int(boot.section("memory").split()[1]) // 10
    assert kind == "tmpfs"
    assert abs(int(size.strip("size=k")) - expected_kilobytes) <= 8  # kB: whole pages


def test_crun_runs_a_read_only_bundle(boot: machine.Boot) -> None:
    containers.check_container_output(boot.section("read-only"), fstype="virtiofs")
    assert "Read-only file system" in boot.section("read-only")


def test_writes_to_a_writable_bundle_stay_in_memory(boot: machine.Boot, bundles: str) -> None:
    containers.check_container_output(boot.section("writable"), fstype="overlay")
    assert boot.section("writable").splitlines()[-1] == "written"
    assert "written" in boot.section("upper").split()
    for name in (WRITABLE, BY_HAND):
        path = f"{bundles}/{os.path.basename(name)}"
        assert not os.path.exists(f"{path}/lower/written")
        assert os.listdir(f"{path}/tmp") == os.listdir(f"{path}/rootfs") == []


def test_bundle_program_makes_the_same_mounts_and_they_are_private(boot: machine.Boot) -> None:
    assert "status 0" in boot.section("prepared")
    containers.check_container_output(boot.section("run by hand"), fstype="overlay")
    mount_lines = {
        line.split()[4]: line for line in boot.section("prepared").splitlines() if "/" in line
    }
    escaped = BY_HAND.replace(" ", "\\040")
    assert set(mount_lines) == {f"{escaped}/tmp", f"{escaped}/rootfs"}
    for line in mount_lines.values():  # the mounts around the bundle are shared
        assert "shared:" not in line
        assert "master:" not in line


def test_cleanup_restores_the_mount_table(boot: machine.Boot) -> None:
    for heading in ("cleaned", "again"):
        assert boot.section(heading).splitlines() == ["status 0", "same"]


def test_cleanup_names_a_busy_mount(boot: machine.Boot) -> None:
    output = boot.section("busy")
    assert f"initrd: cannot clean up the bundle {BY_HAND}: {BY_HAND}/rootfs: " in output
    assert "busy" in output
    assert "status 1" in output


@pytest.mark.parametrize(("name", "reason"), INVALID.items())
def test_prepare_refuses_an_invalid_bundle_and_mounts_nothing(
    boot: machine.Boot, name: str, reason: str
) -> None:
    output = boot.section(name).splitlines()
    assert output[0].startswith("initrd: ")
    assert reason in output[0]
    assert output[-2:] == ["status 1", "same"]


def test_bundle_program_prints_its_usage(boot: machine.Boot) -> None:
    assert "prepare|cleanup DIRECTORY" in boot.section("usage")
    assert "status 2" in boot.section("usage")


def test_prepare_without_overlayfs_fails_and_leaves_no_mount(
    without_overlayfs: machine.Boot,
) -> None:
    containers.check_container_output(without_overlayfs.section("read-only"), fstype="virtiofs")
    output = without_overlayfs.section("prepared")
    assert "cannot mount overlay (overlay) on " in output
    assert (
        "try: this kernel has no overlayfs: put it into the image, mkvirtinitrd --overlay" in output
    )
    assert "status 1" in output
    assert f"{BY_HAND}/" not in output.partition("status")[2]
    assert without_overlayfs.section("cleaned").splitlines() == ["status 0", "same"]


def test_missing_bundle_fails_the_boot(directory: str) -> None:
    root = make_root(f"{directory}/root")
    kernel = assets.kernel("bookworm")
    image = images.make(kernel, f"{directory}/image")
    shares = (machine.Share("rootfs", root),)
    vm = machine.Machine(kernel.image, "initrd.bundle=/srv/x panic=-1", image, shares)
    output = machine.boot(vm, directory).console
    assert "initrd: boot failed: cannot prepare the bundle /srv/x: rootfs: missing" in output
    assert "Power down" in output


def parse_mountinfo(table: str) -> dict[str, tuple[str, str]]:
    """Return type and options of each mount, by its mount point; the topmost mount wins."""
    found = {}
    for line in table.splitlines():
        mount_point, kind, options = line.split()[4], *line.partition(" - ")[2].split(" ")[::2]
        found[mount_point.replace("\\040", " ")] = (kind, options)
    return found


def _boot(bundles: str, directory: str, options: str) -> machine.Boot:
    os.makedirs(directory, exist_ok=True)
    root = assets.debian_root()
    kernel = assets.find_kernel(root)
    append = (
        f"mount=b mount-ro=src {options} panic=-1 init=/usr/bin/python3 -- -BS /run/mnt/b/script"
    )
    image = images.make(kernel, f"{directory}/image", "--cmdline", append)
    shares = (
        machine.Share("rootfs", root),
        machine.Share("b", bundles),
        machine.Share("src", images.TOP),
    )
    return machine.boot(machine.Machine(kernel.image, append, image, shares), directory)
