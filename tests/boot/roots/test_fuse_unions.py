"""FUSE union roots: Debian boots from one, without overlayfs, and shuts down cleanly."""

import os

import pytest

from testbed import assets
from tests.boot import disks, images, machine
from tests.boot.conftest import make_root, write
from tests.boot.roots import open_files
from tests.boot.roots.test_overlay import hash_tree

pytestmark = pytest.mark.boot

DEADLINE = 400.0  # seconds; an idle machine needs a tenth of that
# The kernel refuses to load the module, from the image and from the root.
WITHOUT_OVERLAYFS = "module_blacklist=overlay"
UNIT = """[Unit]
Before=report.service

[Service]
Type=oneshot
StandardOutput=tty
StandardError=tty
TTYPath=/dev/ttyS1
ExecStart=/bin/sh /run/systemd/system/inspect
"""
INSPECT = """
section() { echo; echo "=== $1"; }
section overlayfs; modprobe overlay; grep overlay /proc/filesystems || echo none
section mounts; grep -E '^[^ ]+ (/|/rom|/overlay|/dev|/proc|/sys) ' /proc/mounts
section daemon; pid=$(cat /run/sendsigs.omit.d/*); tr '\\0' '\\n' </proc/$pid/cmdline
set -- $(cat /proc/$pid/stat); [ "$6" = $pid ] && echo session leader
cat /proc/$pid/oom_score_adj; cat /proc/sys/fs/nr_open; grep "open files" /proc/$pid/limits
cd /etc
section changes
echo new >new && cat new && rm debian_version && mv issue moved && echo more >>passwd
mv skel renamed && ls -A renamed && ln passwd hard && ln -s nowhere dangling && mkfifo pipe
chmod 600 moved && chown 7:8 moved && mkdir -m 1777 -p /srv/a/b && rmdir /media && rm -r pam.d
stat -c '%n %A %u:%g %h' moved passwd; stat -c '%n %A' /srv/a/b
section gone; ls -d debian_version issue skel pam.d /media 2>&1
section rom; cat /rom/etc/debian_version; ls -d /rom/etc/skel /rom/media; cat /rom/etc/new 2>&1
section user; setpriv --reuid 1234 --regid 1234 --clear-groups sh -c '
    head -n 1 /etc/passwd; cat /etc/moved; echo x >/etc/passwd; touch /srv/a/b/mine && echo mine
    setpriv --dump | grep Capab; su --version >/dev/null && stat -c %A /bin/su' 2>&1
# Some union daemons print a message for each of these, and have hung because of it.
for _ in 1 2 3 4; do
    (n=0; while [ $n -lt 100 ]; do [ -t 0 ] </etc/passwd; n=$((n+1)); done) &
done; wait
sync
file=/etc/new
"""


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(("unionfs-fuse", "ram"), id="unionfs-fuse in memory"),
        pytest.param(("fuse-overlayfs", "vda"), id="fuse-overlayfs on a disk"),
    ],
)
def union(request: pytest.FixtureRequest) -> tuple[str, str]:
    program, layer = request.param
    return program, layer


@pytest.fixture(scope="module")
def disk(union: tuple[str, str], shared_directory: str) -> str:
    return disks.ext4(f"{shared_directory}/disk", size=64)


@pytest.fixture(scope="module")
def boot(union: tuple[str, str], disk: str, shared_directory: str) -> machine.Boot:
    program, layer = union
    directory = f"{shared_directory}/{program}"
    units = f"{directory}/units"
    write(f"{units}/inspect", INSPECT + open_files.SCRIPT)
    write(f"{units}/inspect.service", UNIT)
    os.mkdir(f"{units}/multi-user.target.wants")
    os.symlink("../inspect.service", f"{units}/multi-user.target.wants/inspect.service")
    root = assets.debian_root()
    before = hash_tree(root)
    options = f"overlay_root={layer} initrd.union={program} {WITHOUT_OVERLAYFS}"
    append = f"{options} mount-ro=units:/run/systemd/system init=/sbin/init report panic=-1"
    kernel = assets.find_kernel(root)
    vm = machine.Machine(
        kernel.image,
        append,
        images.make(kernel, f"{directory}/image", "--cmdline", append),
        (machine.Share("rootfs", root), machine.Share("units", units)),
        memory="512M",
        qemu_arguments=disks.drives(disk),
    )
    boot = machine.boot(vm, directory, DEADLINE)
    assert hash_tree(root) == before, "the host's directory has changed"
    return boot


def test_debian_boots_from_a_union_root(boot: machine.Boot, union: tuple[str, str]) -> None:
    program, layer = union
    assert boot.section("overlayfs").splitlines()[-1] == "none"
    assert boot.section("multi-user") == "active"
    assert boot.section("failed") == ""
    mounts = dict(line.split()[1:3] for line in boot.section("mounts").splitlines())
    assert mounts.pop("/overlay") == ("tmpfs" if layer == "ram" else "ext4")
    assert mounts.pop("/") == f"fuse.{program}"
    expected = {"/rom": "virtiofs", "/dev": "devtmpfs", "/proc": "proc", "/sys": "sysfs"}
    assert mounts == expected


def test_union_daemon_is_marked_to_survive_the_shutdown_of_processes(
    boot: machine.Boot, union: tuple[str, str]
) -> None:
    output = boot.section("daemon").splitlines()
    assert output[0] == f"@/usr/bin/{union[0]}"
    assert output[-4:-2] == ["session leader", "-1000"]


def test_union_root_has_8000_files_open_at_once(boot: machine.Boot) -> None:
    nr_open, limits = boot.section("daemon").splitlines()[-2:]
    assert limits.split() == ["Max", "open", "files", nr_open, nr_open, "files"]
    open_files.check(boot.section("open files"))


def test_union_root_allows_files_to_be_made_changed_moved_and_removed(boot: machine.Boot) -> None:
    assert boot.section("changes").splitlines() == [
        "new",
        ".bash_logout  .bashrc  .profile",
        "moved -rw------- 7:8 1",
        "passwd -rw-r--r-- 0:0 2",
        "/srv/a/b drwxrwxrwt",
    ]
    gone = boot.section("gone").splitlines()
    assert len(gone) == 5
    assert all("No such file or directory" in line for line in gone)


def test_rom_shows_the_unchanged_root(boot: machine.Boot) -> None:
    output = boot.section("rom").splitlines()
    assert output[0].startswith("12.")
    assert output[1:] == [
        "/rom/etc/skel  /rom/media",
        "cat: /rom/etc/new: No such file or directory",
    ]


def test_kernel_enforces_file_modes_on_a_union_root(boot: machine.Boot) -> None:
    output = boot.section("user").splitlines()
    assert output[0].startswith("root:")
    assert [line.rpartition(": ")[2] for line in output[1:3]] == ["Permission denied"] * 2
    assert output[3] == "mine"
    assert output[-1] == "-rwsr-xr-x"


def test_debian_shuts_down_cleanly_from_a_union_root(boot: machine.Boot, disk: str) -> None:
    assert "systemd-shutdown[1]: All filesystems unmounted." in boot.console
    for message in ("Failed to", "still running", "timed out"):
        assert message not in boot.console.partition("systemd-shutdown[1]")[2]
    assert "Power down" in boot.console
    assert boot.status == 0
    assert disks.is_clean(disk)


FAILURES = {
    "no union program in the root": (
        "overlay_root=ram initrd.union=unionfs-fuse",
        ("cannot merge the layers with unionfs-fuse: the root has no unionfs-fuse or unionfs in",),
    ),
    "no target in the root": (
        "overlay_root=ram initrd.union=fuse-overlayfs init=/sbin/no-such-init",
        ("cannot execute the target /sbin/no-such-init: there is no such file in the root",),
    ),
}


@pytest.mark.parametrize(("options", "messages"), FAILURES.values(), ids=FAILURES)
def test_program_missing_from_the_root_fails_the_boot_and_is_named(
    options: str, messages: tuple[str, ...], directory: str
) -> None:
    kernel = assets.kernel("bookworm")
    root = assets.debian_root() if "init=" in options else make_root(f"{directory}/root")
    append = f"{options} {WITHOUT_OVERLAYFS} debug panic=-1"
    image = images.make(kernel, f"{directory}/image", "--cmdline", append)
    shares = (machine.Share("rootfs", root),)
    vm = machine.Machine(kernel.image, append, image, shares, memory="384M")
    output = machine.boot(vm, directory).console
    for text in ("initrd: boot failed: ", *messages):
        assert text in output
    assert "initrd: move the mount" not in output
    assert "Power down" in output
