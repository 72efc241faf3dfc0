"""Boot each kernel with each virtiofsd family, shares, modules and target arguments.

The target and its script report what they find: processes, mounts, modules, devices, links.
"""

import os
import re
import stat

import pytest

from initrd.host.image import cpio
from testbed import assets
from tests.boot import images, machine
from tests.boot.conftest import make_root, write

pytestmark = pytest.mark.boot

COMBINATIONS = [
    pytest.param((suite, family), id=f"{suite}-{family}")
    for suite in ("bookworm", "trixie")
    for family in machine.FAMILIES
]
PLAIN = (("bookworm", "rust"), ("trixie", "c"))  # as a command of a user boots: the kernel's image
# Tags: the first two are mounted at /run/mnt/TAG, the others at /srv/TAG.
SHARES = ("plain", "readonly", "there", "look")
OPTIONS = (
    "mount=plain mount-ro=readonly mount=there:/srv/there mount-ro=look:/srv/look "
    "overlay.metacopy=Y dummy.numdummies=3 debug other=1"
)
INSPECT = """
section() { echo; echo "=== $1"; }
section children; for child in 1 2 3; do sh -c 'echo $$'; done
section processes
for directory in /proc/[0-9]*; do
    line=$(tr '\\0' ' ' <$directory/cmdline) && [ "$line" ] && echo "${directory#/proc/} $line"
done
section modules; cut -d ' ' -f 1 /proc/modules
section metacopy; cat /sys/module/overlay/parameters/metacopy
section devices; ls /sys/class/net
section "kernel log"; dmesg
section meminfo; cat /proc/meminfo
for share in /run/mnt/plain /run/mnt/readonly /srv/there /srv/look; do
    section "read $share"; cat $share/hello
    section "write $share"; (echo guest >$share/written) 2>&1 && echo written
done
section "write /"; (echo guest >/written) 2>&1 && echo written
section nodes; stat -c '%n %F %a %t %T' /dev/kvm /dev/loop-control /dev/fuse /dev/net/tun
section links; for name in fd stdin stdout stderr; do readlink /dev/$name; done
section pivot
unshare -m sh -c 'mount --make-rprivate /; mount -t tmpfs none /mnt && mkdir /mnt/old &&
    cd /mnt && pivot_root . old && old/bin/cat old/srv/look/hello'
section root; ls -a /
section end
"""


@pytest.fixture(scope="module", params=COMBINATIONS)
def boot(request: pytest.FixtureRequest, shared_directory: str) -> machine.Boot:
    suite, family = request.param
    directory = f"{shared_directory}/{suite}-{family}"
    kernel = assets.kernel(suite)
    root = make_root(f"{directory}/root", INSPECT)
    for path in ("there", "look"):
        os.makedirs(f"{root}/srv/{path}")
    for tag in SHARES:
        write(f"{directory}/{tag}/hello", f"hello from {tag}\n")
    shares = [machine.Share(tag, f"{directory}/{tag}", family) for tag in SHARES]
    boot = machine.boot(
        machine.Machine(
            kernel=kernel.image,
            append=f'rootfs=root {OPTIONS} panic=-1 init=/probe -- one "two  words" --four=4 #5',
            initrd=make_image_with_extra_entries(kernel, f"{directory}/image"),
            shares=(machine.Share("root", root, family), *shares),
            plain=(suite, family) in PLAIN,
        ),
        directory,
    )
    assert boot.section("end") == ""
    return boot


def make_image_with_extra_entries(kernel: assets.Kernel, path: str) -> str:
    """Make an image with more modules: broken ones sorted first, a compressed one sorted last."""
    images.make(kernel, path, "--module", "dummy", "--module", "overlay")
    extra = [
        images.module("000-broken.ko", b"this is no module"),
        cpio.directory(images.MODULES + b"000-directory.ko"),
        cpio.symlink(images.MODULES + b"000-link.ko", "000-link.ko"),
        cpio.Entry(images.MODULES + b"000-pipe.ko", stat.S_IFIFO | 0o644),
        images.module("README", b"this is no module either, and nobody tries to load it"),
    ]
    if kernel.suite == "trixie":
        loop = images.module_file(kernel, "drivers/block/loop.ko.xz")
        extra.append(images.module("998-loop.ko.xz", loop))
    return images.change(path, extra=extra)


def parse_mountinfo(boot: machine.Boot) -> dict[str, tuple[str, set[str], set[str]]]:
    """Return type, flags and data of each mount, by its mount point."""
    found = {}
    for line in boot.section("mountinfo").splitlines():
        left, _, right = line.partition(" - ")
        found[left.split()[4]] = (
            right.split()[0],
            set(left.split()[5].split(",")),
            set(right.split()[2].split(",")),
        )
    return found


def test_target_is_pid_1_and_has_its_arguments(boot: machine.Boot) -> None:
    assert boot.status == 0
    assert boot.section("pid") == "1"
    assert boot.section("cmdline").splitlines() == ["/probe", "one", "two  words", "--four=4", "#5"]
    assert boot.section("exe") == "/probe"


def test_target_environment_has_no_options_of_init(boot: machine.Boot) -> None:
    assert set(boot.section("environ").splitlines()) == {"HOME=/", "TERM=linux", "other=1"}


def test_debug_option_logs_each_step_with_its_duration(boot: machine.Boot) -> None:
    for step in ("sysfs.*on /sys", "load module 0", "on /srv/look", "free the initramfs"):
        assert re.search(rf"initrd: .*{step}.*\[[0-9.]+ ms, at [0-9.]+ s\]", boot.console)


def test_target_is_the_only_user_space_process(boot: machine.Boot) -> None:
    lines = boot.section("processes").splitlines()
    assert [line for line in lines if not re.fullmatch(r"\d+ sh .*", line)] == [
        "1 /probe one two  words --four=4 #5 "
    ]


def test_init_creates_no_process_before_the_target(
    boot: machine.Boot, request: pytest.FixtureRequest
) -> None:
    first = int(boot.section("first child"))
    assert first < 100 or "trixie" in request.node.callspec.id  # test_target.py compares trixie
    numbers = [int(line) for line in boot.section("children").splitlines()]
    assert numbers == sorted(numbers)


@pytest.mark.parametrize(
    ("path", "kind", "flags", "data"),
    [
        ("/sys", "sysfs", {"nosuid", "nodev", "noexec"}, set()),
        ("/dev", "devtmpfs", {"nosuid"}, {"size=4096k", "mode=755"}),
        ("/proc", "proc", {"nosuid", "nodev", "noexec"}, set()),
        ("/run", "tmpfs", {"nosuid", "nodev"}, {"size=65536k", "mode=755"}),
        ("/tmp", "tmpfs", {"nosuid", "nodev"}, {"size=131072k"}),
        ("/dev/pts", "devpts", {"nosuid", "noexec"}, {"gid=5", "mode=620", "ptmxmode=666"}),
        ("/dev/shm", "tmpfs", {"nosuid", "nodev"}, set()),
    ],
)
def test_api_file_system_is_mounted_with_its_flags_and_data(
    boot: machine.Boot, path: str, kind: str, flags: set[str], data: set[str]
) -> None:
    found_kind, found_flags, found_data = parse_mountinfo(boot)[path]
    assert found_kind == kind
    assert found_flags - {"relatime"} == {"rw", *flags}
    assert found_data >= data


def test_root_shares_and_api_file_systems_are_the_only_mounts(boot: machine.Boot) -> None:
    mounts = parse_mountinfo(boot)
    shares = {path: flags for path, (kind, flags, _) in mounts.items() if kind == "virtiofs"}
    writable = {path: "rw" in flags for path, flags in shares.items()}
    assert writable == {
        "/": False,
        "/run/mnt/plain": True,
        "/run/mnt/readonly": False,
        "/srv/there": True,
        "/srv/look": False,
    }
    api = {"/sys", "/dev", "/proc", "/run", "/tmp", "/dev/pts", "/dev/shm"}
    assert set(mounts) == api | set(shares)


@pytest.mark.parametrize(
    ("path", "tag", "writable"),
    [
        ("/run/mnt/plain", "plain", True),
        ("/run/mnt/readonly", "readonly", False),
        ("/srv/there", "there", True),
        ("/srv/look", "look", False),
    ],
)
def test_share_is_readable_and_writable_unless_mounted_read_only(
    boot: machine.Boot, shared_directory: str, path: str, tag: str, writable: bool
) -> None:
    assert boot.section(f"read {path}") == f"hello from {tag}"
    assert ("Read-only file system" in boot.section(f"write {path}")) is not writable
    assert (boot.section(f"write {path}") == "written") is writable


def test_a_write_to_the_root_is_refused(boot: machine.Boot) -> None:
    assert "Read-only file system" in boot.section("write /")


def test_modules_are_loaded_in_the_order_of_their_names(
    boot: machine.Boot, request: pytest.FixtureRequest
) -> None:
    loaded = list(reversed(boot.section("modules").splitlines()))  # the newest is listed first
    expected = {
        "bookworm": "virtio virtio_ring fuse virtiofs virtio_pci dummy overlay",
        "trixie": "dummy overlay loop",
    }
    suite = "bookworm" if "bookworm" in request.node.callspec.id else "trixie"
    logged = re.findall(r"initrd: load module (\d\d\d-\w+)\.ko", boot.console)
    assert logged == sorted(logged)
    tried = [file.partition("-")[2] for file in dict.fromkeys(logged)]
    in_the_kernel = [name for name in loaded if name in tried]
    assert set(expected[suite].split()) <= set(in_the_kernel)
    assert in_the_kernel == [name for name in tried if name in loaded]


def test_a_broken_module_is_reported_and_the_boot_goes_on(boot: machine.Boot) -> None:
    assert re.search(r"initrd: cannot load module 000-broken\.ko.*not a module", boot.console)
    assert "README" not in boot.console
    assert "Traceback" not in boot.console


@pytest.mark.parametrize("kind", ["directory", "link", "pipe"])
def test_module_entry_that_is_no_regular_file_is_reported_without_blocking(
    boot: machine.Boot, kind: str
) -> None:
    assert f"initrd: cannot load module 000-{kind}.ko: " in boot.console


def test_module_parameters_of_the_kernel_command_line_are_passed(boot: machine.Boot) -> None:
    assert boot.section("metacopy") == "Y"
    assert {"dummy0", "dummy1", "dummy2"} <= set(boot.section("devices").split())


def test_device_nodes_and_links_that_devtmpfs_lacks_are_created(
    boot: machine.Boot, request: pytest.FixtureRequest
) -> None:
    # Debian 13's kernel has fuse built in, so devtmpfs has the node already; it is left alone.
    fuse = "600" if "trixie" in request.node.callspec.id else "666"
    assert boot.section("nodes").splitlines() == [
        "/dev/kvm character special file 660 a e8",
        "/dev/loop-control character special file 660 a ed",
        f"/dev/fuse character special file {fuse} a e5",
        "/dev/net/tun character special file 666 a c8",
    ]
    links = ["/proc/self/fd", *(f"/proc/self/fd/{number}" for number in range(3))]
    assert boot.section("links").splitlines() == links


def test_pivot_root_works_in_the_new_root(boot: machine.Boot) -> None:
    assert boot.section("pivot") == "hello from look"


def test_init_messages_are_in_the_kernel_log_too(boot: machine.Boot) -> None:
    assert re.search(r"initrd: cannot load module 000-broken\.ko", boot.section("kernel log"))
