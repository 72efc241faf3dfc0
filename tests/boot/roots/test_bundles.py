"""Container bundles: prepared by /init and by hand, run by crun, and undone without a trace."""

import os
import shutil
from collections.abc import Iterator

import pytest

from testbed import assets
from tests.boot import containers, images, machine
from tests.boot.conftest import make_root, write

pytestmark = pytest.mark.boot

READ_ONLY, WRITABLE = "/run/mnt/b/read-only", "/run/mnt/b/a, writable:one"
BY_HAND = "/run/mnt/b/by hand"

BAD = {
    "no rootfs": "rootfs: missing",
    "lower a file": "lower: that is no directory",
    "rootfs a link": "rootfs: that is no directory",
    "nothing": "No such file or directory",
}

# Debian's own Python runs the checkout, whose `initrd.guest.roots.bundle` is a program too.
SCRIPT = f"""
import os, sys

report = os.open("/dev/ttyS1", os.O_WRONLY)
os.dup2(report, 1)
os.dup2(report, 2)
os.environ["PATH"] = "/usr/sbin:/usr/bin"
sys.path.insert(0, "/run/mnt/src")
from initrd.guest.bundle import main


def section(name, command=""):
    print(f"\\n=== {{name}}", flush=True)
    os.system(command)


def run(name, path):
    if os.path.exists(f"{{path}}/rootfs/bin"):
        section(name, "{containers.RUN} 2>&1".format(f'"{{path}}"'))


def table():
    with open("/proc/self/mountinfo") as file:
        return file.read()


def bundle(name, action, path="{BY_HAND}"):
    section(name)
    print("status", main([action, path]), flush=True)
    new = set(table().splitlines()) - set(before.splitlines())
    print("same" if table() == before else "\\n".join(new))


section("mounts", "cat /proc/self/mountinfo")
section("memory", "head -n 1 /proc/meminfo")
os.system("{containers.CGROUPS}")
run("read-only", "{READ_ONLY}")
run("writable", "{WRITABLE}")
section("upper", 'ls "{WRITABLE}/tmp/upper"')
os.system("mount --make-rshared /")
before = table()
bundle("prepared", "prepare")
run("run by hand", "{BY_HAND}")
if os.path.exists("{BY_HAND}/rootfs/bin"):
    os.system('mount -t tmpfs within "{BY_HAND}/rootfs/tmp"')
    os.chdir("{BY_HAND}/rootfs/bin")
    bundle("busy", "cleanup")
    os.chdir("/")
bundle("cleaned", "cleanup")
bundle("again", "cleanup")
for name in {tuple(BAD)}:
    bundle(name, "prepare", f"/run/mnt/b/{{name}}")
bundle("usage", "undo")
os.close(1), os.close(2), os.close(report)
os.system("/run/mnt/b/busybox poweroff -f")
"""


@pytest.fixture(scope="module")
def bundles(shared_directory: str) -> str:
    """A directory with good bundles and bad ones."""
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
    words = f'initrd.bundle={READ_ONLY} initrd.bundle="{WRITABLE}"'
    return _boot(bundles, f"{shared_directory}/boot", words)


@pytest.fixture(scope="module")
def without_overlayfs(bundles: str, shared_directory: str) -> Iterator[machine.Boot]:
    """The kernel refuses the module, and everything has to be told by hand."""
    words = f"initrd.bundle={READ_ONLY} module_blacklist=overlay"
    yield _boot(bundles, f"{shared_directory}/without", words)


def test_init_prepares_them(boot: machine.Boot) -> None:
    mounts = mounts_of(boot.section("mounts"))
    assert mounts[f"{READ_ONLY}/rootfs"][0] == "virtiofs"
    assert mounts[f"{WRITABLE}/rootfs"][0] == "overlay"
    kind, options = mounts[f"{WRITABLE}/tmp"]
    (size,) = [word for word in options.split(",") if word.startswith("size=")]
    tenth = int(boot.section("memory").split()[1]) // 10
    assert kind == "tmpfs"
    assert abs(int(size.strip("size=k")) - tenth) <= 8  # kB: whole pages


def test_a_runtime_runs_a_read_only_one(boot: machine.Boot) -> None:
    containers.check(boot.section("read-only"), fstype="virtiofs")
    assert "Read-only file system" in boot.section("read-only")


def test_what_a_writable_one_writes_is_in_memory(boot: machine.Boot, bundles: str) -> None:
    containers.check(boot.section("writable"), fstype="overlay")
    assert boot.section("writable").splitlines()[-1] == "written"
    assert "written" in boot.section("upper").split()
    for name in (WRITABLE, BY_HAND):
        path = f"{bundles}/{os.path.basename(name)}"
        assert not os.path.exists(f"{path}/lower/written")
        assert os.listdir(f"{path}/tmp") == os.listdir(f"{path}/rootfs") == []


def test_by_hand_it_is_the_same_and_private(boot: machine.Boot) -> None:
    assert "status 0" in boot.section("prepared")
    containers.check(boot.section("run by hand"), fstype="overlay")
    places = {
        line.split()[4]: line for line in boot.section("prepared").splitlines() if "/" in line
    }
    escaped = BY_HAND.replace(" ", "\\040")
    assert set(places) == {f"{escaped}/tmp", f"{escaped}/rootfs"}
    for line in places.values():  # the mounts around it are shared
        assert "shared:" not in line
        assert "master:" not in line


def test_cleaning_up_leaves_no_trace(boot: machine.Boot) -> None:
    for heading in ("cleaned", "again"):
        assert boot.section(heading).splitlines() == ["status 0", "same"]


def test_what_is_in_use_is_named(boot: machine.Boot) -> None:
    said = boot.section("busy")
    assert f"initrd: cannot clean up the bundle {BY_HAND}: {BY_HAND}/rootfs: " in said
    assert "busy" in said
    assert "status 1" in said


@pytest.mark.parametrize(("name", "why"), BAD.items())
def test_what_is_no_bundle_is_left_alone(boot: machine.Boot, name: str, why: str) -> None:
    said = boot.section(name).splitlines()
    assert said[0].startswith("initrd: ")
    assert why in said[0]
    assert said[-2:] == ["status 1", "same"]


def test_the_program_tells_how_it_is_used(boot: machine.Boot) -> None:
    assert "prepare|cleanup DIRECTORY" in boot.section("usage")
    assert "status 2" in boot.section("usage")


def test_without_overlayfs_nothing_is_left(without_overlayfs: machine.Boot) -> None:
    containers.check(without_overlayfs.section("read-only"), fstype="virtiofs")
    said = without_overlayfs.section("prepared")
    assert "cannot mount overlay (overlay) on " in said
    assert (
        "try: this kernel has no overlayfs: put it into the image, mkvirtinitrd --overlay" in said
    )
    assert "status 1" in said
    assert f"{BY_HAND}/" not in said.partition("status")[2]
    assert without_overlayfs.section("cleaned").splitlines() == ["status 0", "same"]


def test_a_bundle_that_is_none_fails_the_boot(directory: str) -> None:
    root = make_root(f"{directory}/root")
    kernel = assets.kernel("bookworm")
    image = images.make(kernel, f"{directory}/image")
    shares = (machine.Share("rootfs", root),)
    it = machine.Machine(kernel.image, "initrd.bundle=/srv/x panic=-1", image, shares)
    said = machine.boot(it, directory).console
    assert "initrd: boot failed: cannot prepare the bundle /srv/x: rootfs: missing" in said
    assert "Power down" in said


def mounts_of(table: str) -> dict[str, tuple[str, str]]:
    """Return type and options of each mount, by its place, the topmost last."""
    found = {}
    for line in table.splitlines():
        place, kind, options = line.split()[4], *line.partition(" - ")[2].split(" ")[::2]
        found[place.replace("\\040", " ")] = (kind, options)
    return found


def _boot(bundles: str, directory: str, words: str) -> machine.Boot:
    os.makedirs(directory, exist_ok=True)
    root = assets.debian_root()
    kernel = assets.kernel_in(root)
    append = f"mount=b mount-ro=src {words} panic=-1 init=/usr/bin/python3 -- -BS /run/mnt/b/script"
    image = images.make(kernel, f"{directory}/image", "--cmdline", append)
    shares = (
        machine.Share("rootfs", root),
        machine.Share("b", bundles),
        machine.Share("src", images.TOP),
    )
    return machine.boot(machine.Machine(kernel.image, append, image, shares), directory)
