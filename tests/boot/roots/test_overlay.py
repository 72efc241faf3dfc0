"""Overlay roots: the guest can change files, the host's stay unchanged, disks keep changes."""

import hashlib
import os
import re

import pytest

from testbed import assets
from tests.boot import disks, images, machine
from tests.boot.conftest import make_root, write
from tests.boot.roots import open_files

pytestmark = pytest.mark.boot

INSPECT = """
section() { echo; echo "=== $1"; }
section mounts; grep -E '^[^ ]+ (/|/rom|/overlay) ' /proc/mounts
section changes
echo new >/new && cat /new && rm /old && mv /dir /renamed && cat /renamed/file
echo more >>/deep/er/file && cat /deep/er/file && chmod 600 /deep && chown 7:8 /deep/er
ln /deep/er/file /deep/link && ln -s nowhere /dangling && mkfifo /fifo && mkdir -m 1777 /new.d
mv /deep /new.d && ls -1 /
section rom; ls -1 /rom; cat /rom/old /rom/dir/file /rom/deep/er/file
section "rom is read-only"; echo x 2>&1 >/rom/x
section modes; stat -c '%n %a %u:%g' / /overlay /volumes /new.d/deep /new.d/deep/er
section size; dd if=/dev/zero of=/big bs=1M count=16 2>&1; wc -c </big; rm /big
file=/new
"""


def make_tree(root: str) -> str:
    make_root(root, INSPECT + open_files.SCRIPT)
    write(f"{root}/old", "old\n")
    write(f"{root}/dir/file", "in dir\n")
    write(f"{root}/deep/er/file", "deep\n")
    os.chmod(root, 0o751)
    return root


def hash_tree(top: str) -> str:
    """Return a hash of the metadata of a directory tree, and of its files below 64 KiB."""
    digest = hashlib.sha256()
    for folder, directories, names in sorted(os.walk(top)):
        for path in (folder, *(os.path.join(folder, name) for name in (*directories, *names))):
            stat = os.lstat(path)
            fields = (stat.st_mode, stat.st_uid, stat.st_gid, stat.st_nlink, stat.st_mtime_ns)
            digest.update(f"{path} {fields} {stat.st_size}\n".encode())
            if os.path.isfile(path) and not os.path.islink(path) and stat.st_size < 1 << 16:
                with open(path, "rb") as file:
                    digest.update(file.read())
    return digest.hexdigest()


@pytest.fixture(
    scope="module",
    params=[pytest.param(("bookworm", "rust"), id="6.1"), pytest.param(("trixie", "c"), id="6.12")],
)
def boot(request: pytest.FixtureRequest, shared_directory: str) -> machine.Boot:
    suite, family = request.param
    directory = f"{shared_directory}/{suite}"
    root = make_tree(f"{directory}/root")
    before = hash_tree(root)
    append = "overlay_root=ram initrd.overlay_size=8m init=/probe panic=-1"
    boot = _boot(directory, append, suite=suite, shares=(machine.Share("rootfs", root, family),))
    assert hash_tree(root) == before, "the host's directory has changed"
    return boot


def test_root_is_an_overlay_with_its_layers_in_proc_mounts(boot: machine.Boot) -> None:
    mounts = dict(line.split()[1:3] for line in boot.section("mounts").splitlines())
    assert mounts == {"/": "overlay", "/rom": "virtiofs", "/overlay": "tmpfs"}
    assert "lowerdir=/rom,upperdir=/overlay/root,workdir=/overlay/work" in boot.section("mounts")
    assert re.search(r"^rootfs /rom virtiofs ro\b", boot.section("mounts"), re.M)
    assert re.search(r"^tmpfs /overlay tmpfs rw,noatime\b", boot.section("mounts"), re.M)


def test_overlay_root_allows_files_to_be_made_changed_moved_and_removed(boot: machine.Boot) -> None:
    output = boot.section("changes").splitlines()
    assert output[:4] == ["new", "in dir", "deep", "more"]
    assert {"new", "renamed", "dangling", "fifo", "new.d", "rom", "volumes"} <= set(output)
    assert not {"old", "dir", "deep"} & set(output[4:])


def test_rom_shows_the_unchanged_root_read_only(boot: machine.Boot) -> None:
    output = boot.section("rom").splitlines()
    assert {"old", "dir", "deep"} <= set(output)
    assert not {"new", "renamed", "rom", "volumes", "overlay"} & set(output)
    assert output[-3:] == ["old", "in dir", "deep"]
    assert "Read-only file system" in boot.section("rom is read-only")


def test_overlay_keeps_owners_and_modes(boot: machine.Boot) -> None:
    assert boot.section("modes").splitlines() == [
        "/ 751 0:0",
        "/overlay 755 0:0",
        "/volumes 755 0:0",
        "/new.d/deep 600 0:0",
        "/new.d/deep/er 755 7:8",
    ]


def test_overlay_size_limits_the_data_in_memory(boot: machine.Boot) -> None:
    assert "No space left on device" in boot.section("size")
    assert 7 << 20 < int(boot.section("size").splitlines()[-1]) <= 8 << 20


def test_overlay_root_has_8000_files_open_at_once(boot: machine.Boot) -> None:
    open_files.check(boot.section("open files"))


@pytest.mark.parametrize("layer", ["ram", "vda"])
def test_systemd_reaches_multi_user_target_on_an_overlay(layer: str, directory: str) -> None:
    root, disk = assets.debian_root(), disks.ext4(f"{directory}/disk", size=64)
    before = hash_tree(root)
    append = f"ro overlay_root={layer} init=/sbin/init report panic=-1"
    boot = _boot(
        directory,
        append,
        shares=(machine.Share("rootfs", root),),
        memory="512M",
        qemu_arguments=disks.drives(disk),
        seconds=300,
    )
    assert boot.section("multi-user") == "active"
    assert boot.section("root").split() == ["overlay", "overlay"]
    assert boot.section("failed") == ""
    assert "Power down" in boot.console
    assert hash_tree(root) == before
    assert disks.is_clean(disk)


# Three boots with one overlay disk: the first writes files and powers off, the second is killed
# while it writes and syncs (`count`), the third reports the files (`look`).
DISK_SCRIPT = """#!/bin/sh
echo; echo "=== before"; ls /mnt
case $(cat /proc/cmdline) in
*count*)
    n=0
    while n=$((n + 1)); do
        mkdir -p /mnt/$((n % 7)) && echo $n >/mnt/$((n % 7))/$n && echo $n >/mnt/last && sync
        echo "synced $n" >/dev/console
        dd if=/dev/zero of=/mnt/noise bs=64k count=9 2>/dev/null
    done ;;
*look*) echo; echo "=== last"; cat /mnt/last; echo; echo "=== files"; cat /mnt/[0-9]/* ;;
*) echo hello >/mnt/hello; mv /dir /mnt/moved ;;
esac
"""
SYNCED_FILES = 12  # before the power cut


@pytest.fixture(scope="module")
def boot_after_power_cut(shared_directory: str) -> machine.Boot:
    directory = f"{shared_directory}/disk"
    root = make_root(f"{directory}/root", DISK_SCRIPT)
    write(f"{root}/dir/file", "in dir\n")
    settings = {
        "shares": (machine.Share("rootfs", root),),
        "qemu_arguments": disks.drives(disks.ext4(f"{shared_directory}/disk.img")),
    }
    append = "overlay_root=vda init=/probe panic=-1"
    first = _boot(f"{directory}/1", append, **settings)
    assert first.status == 0
    second = _machine(f"{directory}/2", f"{append} count", **settings)
    with machine.running(second, f"{directory}/2") as guest:
        guest.expect(f"synced {SYNCED_FILES}")  # the machine is killed here, while it writes more
    return _boot(f"{directory}/3", f"{append} look", **settings)


def test_overlay_disk_keeps_files_for_the_next_boot(boot_after_power_cut: machine.Boot) -> None:
    assert {"hello", "moved"} <= set(boot_after_power_cut.section("before").split())


def test_overlay_keeps_synced_files_through_a_power_cut(boot_after_power_cut: machine.Boot) -> None:
    files = {int(number) for number in boot_after_power_cut.section("files").split() if number}
    assert set(range(1, SYNCED_FILES + 1)) <= files
    assert int(boot_after_power_cut.section("last")) >= SYNCED_FILES
    assert boot_after_power_cut.status == 0


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("no disk", "cannot find /dev/vda: not there after 0.5 s; there are no block devices"),
        ("squashfs", "cannot keep the overlay on /dev/vda: it holds squashfs, not ext4"),
        ("zeros", "cannot keep the overlay on /dev/vda: no file system is recognized on it"),
    ],
)
def test_unusable_overlay_disk_fails_the_boot_before_the_first_mount(
    content: str, message: str, directory: str
) -> None:
    root = make_root(f"{directory}/root")
    image = f"{directory}/disk.img"
    if content == "squashfs":
        disks.squashfs(image, root)
    else:
        write(image, "\0" * (1 << 20))
    arguments = () if content == "no disk" else disks.drives(image)
    append = "debug quiet overlay_root=vda initrd.timeout=0.5 panic=-1"
    shares = (machine.Share("rootfs", root),)
    boot = _boot(directory, append, shares=shares, qemu_arguments=arguments)
    assert f"initrd: boot failed: {message}" in boot.console
    assert "initrd: load module" in boot.console  # so each step is logged
    assert not re.search(r"initrd: mount .* on /(rom|overlay|sysroot)", boot.console)
    assert "Power down" in boot.console


def test_kernel_without_overlayfs_fails_the_boot_with_alternatives(directory: str) -> None:
    root = make_root(f"{directory}/root")
    kernel = assets.kernel("bookworm")
    image = images.make(kernel, f"{directory}/image")  # without the overlay module
    shares = (machine.Share("rootfs", root),)
    vm = machine.Machine(kernel.image, "overlay_root=ram panic=-1", image, shares)
    boot = machine.boot(vm, directory)
    for text in ("has no overlay file system", "mkvirtinitrd --overlay", "initrd.union=unionfs"):
        assert text in boot.console
    assert "Power down" in boot.console


def test_root_files_that_rom_hides_are_reported(directory: str) -> None:
    root = make_root(f"{directory}/root", "echo; echo === rom; cat /rom/rom/file\n")
    write(f"{root}/rom/file", "hidden\n")
    append = "overlay_root=ram init=/probe panic=-1"
    boot = _boot(directory, append, shares=(machine.Share("rootfs", root),))
    assert "the root has files in /rom: they are hidden now, see /rom/rom" in boot.console
    assert boot.section("rom") == "hidden"


def _machine(
    directory: str,
    append: str,
    *,
    suite: str = "bookworm",
    shares: tuple[machine.Share, ...] = (),
    memory: str = "256M",
    qemu_arguments: tuple[str, ...] = (),
) -> machine.Machine:
    os.makedirs(directory, exist_ok=True)
    kernel = assets.kernel(suite)
    image = images.make(kernel, f"{directory}/image", "--cmdline", append)
    return machine.Machine(
        kernel.image, append, image, shares, memory=memory, qemu_arguments=qemu_arguments
    )


def _boot(
    directory: str, append: str, *, seconds: float = machine.DEADLINE, **fields: object
) -> machine.Boot:
    vm = _machine(directory, append, **fields)  # type: ignore[arg-type]
    return machine.boot(vm, directory, seconds)
