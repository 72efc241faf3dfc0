"""Root options in combination: each one works with the others, or is reported as ignored."""

import os

import pytest

from initrd.host.image import cpio
from testbed import assets
from tests.boot import disks, images, machine, tree_listing
from tests.boot.conftest import make_root, write

pytestmark = pytest.mark.boot

INSPECT = """
section() { echo; echo "=== $1"; }
section mounts; cat /proc/mounts
section write; echo hello 2>&1 >/written; cat /written; echo x 2>&1 >/rom/written
section volumes; readlink /volumes; cat /volumes/data/file; ls -d /srv/*
section bundle; echo new >/c/rootfs/new; ls /c/rootfs; ls -R /c/tmp/upper
section rom; ls -a /rom
"""


@pytest.fixture(scope="module")
def system(shared_directory: str) -> str:
    root = make_root(f"{shared_directory}/root", INSPECT)
    for name in ("srv", "c/lower/old", "c/tmp", "c/rootfs"):
        os.makedirs(f"{root}/{name}")
    os.symlink("/srv", f"{root}/volumes")
    return root


@pytest.fixture(scope="module")
def boot_on_disks(system: str, shared_directory: str) -> machine.Boot:
    """Boot with a read-only disk, a late overlay disk, a share in /volumes, and a bundle."""
    directory = f"{shared_directory}/disks"
    write(f"{directory}/data/file", "from the share\n")
    lower = disks.squashfs(f"{shared_directory}/lower", system)
    layer = disks.ext4(f"{shared_directory}/layer")
    append = (
        "root=/dev/vda rw overlay_root=vdb initrd.overlay_size=1m initrd.timeout=60 "
        "mount=data:/volumes/data initrd.bundle=/c debug init=/probe panic=-1"
    )
    kernel = assets.kernel("trixie")
    vm = machine.Machine(
        kernel.image,
        append,
        images.make(kernel, f"{directory}/image", "--cmdline", append),
        (machine.Share("data", f"{directory}/data"),),
        qemu_arguments=(
            *disks.drives(lower),
            *machine.FREE_SLOT,
            *("-drive", f"file={layer},format=raw,if=none,id=late-disk"),
        ),
    )
    with machine.running(vm, directory) as guest:
        guest.expect("waiting for /dev/vdb")
        guest.plug_device("virtio-blk-pci", drive="late-disk")
        return guest.wait()


@pytest.fixture(scope="module")
def boot_in_memory(system: str, shared_directory: str) -> machine.Boot:
    """Boot with the initramfs as the lower layer; /rom, /overlay and /sysroot exist in it."""
    directory = f"{shared_directory}/memory"
    os.makedirs(directory)
    append = "root=tmpfs rw overlay_root=ram initrd.bundle=/c init=/probe panic=-1"
    kernel = assets.kernel("bookworm")
    image = images.make(kernel, f"{directory}/image", "--cmdline", append)
    colliding = [
        cpio.file("rom/mine", b"x"),
        cpio.directory("overlay"),
        cpio.file("sysroot/mine", b"x"),
    ]
    with open(image, "ab") as file:
        file.write(
            cpio.padding(file.tell()) + cpio.pack([*tree_listing.entries_of(system), *colliding])
        )
    return machine.boot(machine.Machine(kernel.image, append, image), directory)


def parse_mounts(boot: machine.Boot) -> dict[str, list[str]]:
    rows = (line.split() for line in boot.section("mounts").splitlines())
    return {row[1]: [row[0], *row[2:4]] for row in rows}


def test_overlay_of_two_disks_mounts_both_and_ignores_the_size_option(
    boot_on_disks: machine.Boot,
) -> None:
    mounts = parse_mounts(boot_on_disks)
    assert mounts["/"][:2] == ["overlay", "overlay"]
    assert mounts["/rom"][:2] == ["/dev/vda", "squashfs"]
    assert mounts["/rom"][2].startswith("ro")
    assert mounts["/overlay"][:2] == ["/dev/vdb", "ext4"]
    assert "initrd.overlay_size= is for overlay_root=ram; /dev/vdb has its own size" in (
        boot_on_disks.console
    )


def test_overlay_of_the_initramfs_reports_files_hidden_by_rom(boot_in_memory: machine.Boot) -> None:
    mounts = parse_mounts(boot_in_memory)
    assert mounts["/"][:2] == ["overlay", "overlay"]
    assert mounts["/rom"][:2] == ["tmpfs", "tmpfs"]
    assert mounts["/rom"][2].startswith("ro")
    assert mounts["/overlay"][:2] == ["tmpfs", "tmpfs"]
    assert "the root has files in /rom: they are hidden now, see /rom/rom" in boot_in_memory.console
    names = set(boot_in_memory.section("rom").split())
    assert {"rom", "overlay", "sysroot", "probe"} <= names
    assert "init" not in names


@pytest.mark.parametrize("fixture", ["boot_on_disks", "boot_in_memory"])
def test_overlay_is_writable_above_a_read_only_rom_and_bundles_work(
    fixture: str, request: pytest.FixtureRequest
) -> None:
    boot: machine.Boot = request.getfixturevalue(fixture)
    lines = boot.section("write").splitlines()
    assert lines[0] == "hello"
    assert lines[1].endswith("/rom/written: Read-only file system")
    assert boot.section("bundle").split()[:3] == ["new", "old", "/c/tmp/upper:"]
    assert parse_mounts(boot)["/c/rootfs"][1] == "overlay"
    assert boot.status == 0


def test_share_below_a_symlink_volumes_is_mounted_at_its_target(
    boot_on_disks: machine.Boot,
) -> None:
    lines = boot_on_disks.section("volumes").splitlines()
    assert lines == ["/srv", "from the share", "/srv/data"]
    assert parse_mounts(boot_on_disks)["/srv/data"][:2] == ["data", "virtiofs"]
