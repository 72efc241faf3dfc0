"""Roots on disks: each file system, each way to name the disk, both kernels, and failures."""

import os
import re
import shutil
from dataclasses import dataclass

import pytest

from testbed import assets
from tests.boot import disks, images, machine
from tests.boot.conftest import make_root

pytestmark = pytest.mark.boot

SNAPSHOT = ",snapshot=on"  # QEMU leaves the image file unchanged
INSPECT = """
echo; echo "=== mounts"; grep -E '^[^ ]+ (/|/rom|/overlay) ' /proc/mounts
echo; echo "=== write"; echo hello 2>&1 >/written; cat /written
"""


@pytest.fixture(scope="module")
def root_directory(shared_directory: str) -> str:
    return make_root(f"{shared_directory}/root", INSPECT)


@pytest.fixture(scope="module")
def file_systems(root_directory: str, shared_directory: str) -> dict[str, str]:
    """Return images of the root directory, their paths by file system type."""
    options = ("-L", "my root")
    return {
        "ext4": disks.ext4(f"{shared_directory}/ext4", root_directory, options=options),
        "squashfs": disks.squashfs(f"{shared_directory}/squashfs", root_directory),
        "erofs": disks.erofs(f"{shared_directory}/erofs", root_directory),
    }


@dataclass(frozen=True)
class Case:
    """A disk, the options that select it, and how the root is mounted then."""

    fstype: str
    append: str  # {UUID} is of the file system, {GPT} and {MBR} are PARTUUIDs of such disks
    mounted: str  # the start of its line in /proc/mounts
    suite: str = "bookworm"
    writable: bool = False


CASES = {
    "ext4 by name": Case("ext4", "root=/dev/vda", "/dev/vda / ext4 ro"),
    "ext4 by label": Case(
        "ext4", 'root="LABEL=my root" rootfstype=ext4', "/dev/vda / ext4 ro", "trixie"
    ),
    "ext4 by UUID, writable": Case(
        "ext4", "root=UUID={UUID} rw rootflags=noatime", "/dev/vda / ext4 rw,noatime", writable=True
    ),
    "ext4 on the partition of an MBR": Case(
        "ext4", "root=PARTUUID={MBR}", "/dev/vda1 / ext4 ro", "trixie"
    ),
    "squashfs on the partition of a GPT": Case(
        "squashfs", "root=PARTUUID={GPT}", "/dev/vda3 / squashfs ro"
    ),
    "squashfs, the second of two types": Case(
        "squashfs", "root=/dev/vda rw rootfstype=ext4,squashfs", "/dev/vda / squashfs ro", "trixie"
    ),
    "squashfs below an overlay": Case(
        "squashfs", "root=/dev/vda overlay_root=ram", "/dev/vda /rom squashfs ro", writable=True
    ),
    "erofs by UUID": Case("erofs", "root=UUID={UUID}", "/dev/vda / erofs ro", "trixie"),
    "erofs below an overlay": Case(
        "erofs",
        "root=/dev/vda rootfstype=erofs overlay_root=ram",
        "/dev/vda /rom erofs ro",
        "trixie",
        writable=True,
    ),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_root_on_a_disk_is_mounted(
    case: Case, file_systems: dict[str, str], directory: str
) -> None:
    disk = f"{directory}/disk"
    identifiers = {"UUID": disks.uuid(file_systems[case.fstype])}
    if "{GPT}" in case.append:
        identifiers["GPT"] = disks.gpt(disk, file_systems[case.fstype])
    elif "{MBR}" in case.append:
        identifiers["MBR"] = disks.mbr(disk, file_systems[case.fstype])
    else:
        os.link(file_systems[case.fstype], disk)
    boot = _boot(
        directory, case.append.format(**identifiers), disk, suite=case.suite, options=SNAPSHOT
    )
    assert re.search(rf"^{case.mounted}\b", boot.section("mounts"), re.M), boot.section("mounts")
    expected = "hello" if case.writable else "Read-only file system"
    assert expected in boot.section("write")
    warned = "rw" in case.append.split() and not case.writable
    assert ("squashfs cannot be written to, so the root is read-only" in boot.console) == warned
    assert boot.status == 0


LIBRARIES = ("libc.so.6", "libfuse.so.2", "libpthread.so.0", "librt.so.1")
# By the path in the CD-ROM that of the file in Debian, where /lib64 has an absolute link.
UNION_FILES = {
    "/usr/bin/unionfs-fuse": "/usr/bin/unionfs-fuse",
    "/lib64/ld-linux-x86-64.so.2": assets.LOADER,
    **{path: path for path in (f"/lib/x86_64-linux-gnu/{name}" for name in LIBRARIES)},
}
LIVE_SYSTEM = "root=LABEL=LiveCd overlay_root=ram initrd.union=unionfs-fuse"
CD_ROMS = {
    "virtio-scsi, below a union": (
        *("bookworm", LIVE_SYSTEM, "/dev/sr0 /rom iso9660 ro"),
        *("-device", "virtio-scsi-pci", "-drive", "file={},if=none,id=cd,media=cdrom"),
        *("-device", "scsi-cd,drive=cd"),
    ),
    "ata_piix": (
        *("bookworm", "root=/dev/sr0 rootfstype=iso9660", "/dev/sr0 / iso9660 ro"),
        *("-machine", "pc", "-cdrom", "{}"),
    ),
    "ahci": ("trixie", "root=UUID={UUID}", "/dev/sr0 / iso9660 ro", "-cdrom", "{}"),
}


@pytest.fixture(scope="module")
def cd_rom(root_directory: str, shared_directory: str) -> str:
    """An image of a CD-ROM, whose system has unionfs-fuse."""
    system = f"{shared_directory}/live"
    shutil.copytree(root_directory, system, symlinks=True)
    for path, source in UNION_FILES.items():
        os.makedirs(os.path.dirname(system + path), exist_ok=True)
        shutil.copy(assets.debian_root() + source, system + path)
    return disks.iso9660(f"{shared_directory}/live.iso", system, "LiveCd")


@pytest.mark.parametrize("case", CD_ROMS.values(), ids=CD_ROMS)
def test_root_on_a_cd_rom_is_mounted(case: tuple[str, ...], cd_rom: str, directory: str) -> None:
    suite, append, mounted, *arguments = case
    append = f"{append.replace('{UUID}', disks.uuid(cd_rom))} initrd.timeout=60"
    attach = tuple(argument.replace("{}", cd_rom) for argument in arguments)
    boot = machine.boot(_machine(directory, append, suite, attach), directory)
    assert mounted in boot.section("mounts")
    expected = "hello" if "overlay_root" in append else "Read-only file system"
    assert expected in boot.section("write")
    assert boot.status == 0


@pytest.mark.parametrize(
    ("suite", "name"),
    [("bookworm", "/dev/vda"), ("trixie", '"LABEL=my root"')],
)
def test_init_waits_for_a_disk_that_appears_late(
    suite: str, name: str, file_systems: dict[str, str], directory: str
) -> None:
    append = f"debug initrd.timeout=60 root={name}"
    arguments = [*machine.FREE_SLOT]
    arguments += ["-drive", f"file={file_systems['ext4']},format=raw,if=none,id=disk,readonly=on"]
    vm = _machine(directory, append, suite, tuple(arguments))
    with machine.running(vm, directory) as guest:
        guest.expect(f"waiting for {name.strip(chr(34))}")
        guest.plug_device("virtio-blk-pci", drive="disk")
        boot = guest.wait()
    assert boot.section("mounts").startswith("/dev/vda / ext4 ro")
    assert boot.status == 0


FAILURES = {
    "no such disk": (
        "ext4",
        "root=/dev/vdx",
        ("cannot find /dev/vdx: not there after 0.5 s", "/dev/vda (ext4 UUID=", "LABEL=my root)"),
    ),
    "no such label": ("squashfs", "root=LABEL=x", ("cannot find LABEL=x", "/dev/vda (squashfs)")),
    "wrong type": (
        "ext4",
        "root=/dev/vda rootfstype=squashfs",
        ("cannot mount /dev/vda (squashfs)", "the device holds ext4", "rootfstype=ext4"),
    ),
    "an erased superblock": (
        "erased",
        "root=/dev/vda",
        ("cannot mount /dev/vda", "no file system is recognized on it"),
    ),
    "an erased superblock with rootfstype": (
        "erased",
        "root=/dev/vda rootfstype=ext4",
        ("cannot mount /dev/vda (ext4)", "no file system is recognized on it"),
    ),
    "a damaged superblock": (
        "damaged",
        "root=/dev/vda",
        ("cannot mount /dev/vda (ext4)", "its superblock is damaged"),
    ),
    "an unknown mount option": (
        "ext4",
        "root=/dev/vda rootflags=nonsense",
        ("cannot mount /dev/vda (ext4)", "nonsense", "an option is not understood"),
    ),
    "one disk for the root and the overlay": (
        "ext4",
        "root=/dev/vda overlay_root=vda",
        ("cannot keep the overlay on /dev/vda: it is the device of the root itself",),
    ),
}


@pytest.mark.parametrize(("content", "append", "messages"), FAILURES.values(), ids=FAILURES)
def test_unusable_disk_fails_the_boot_and_names_the_cause(
    content: str,
    append: str,
    messages: tuple[str, ...],
    file_systems: dict[str, str],
    directory: str,
) -> None:
    disk = f"{directory}/disk"
    if content in file_systems:
        os.link(file_systems[content], disk)
    else:
        disks.ext4(disk)
        erase, damage = (1024, bytes(1024)), (1024 + 0x18, b"\xff" * 4)  # s_log_block_size
        disks.overwrite(disk, *(erase if content == "erased" else damage))
    boot = _boot(directory, f"initrd.timeout=0.5 {append}", disk, options=SNAPSHOT)
    for text in ("initrd: boot failed: ", *messages):
        assert text in boot.console
    assert "Power down" in boot.console
    assert "Traceback" not in boot.console


def test_unreplayed_journal_of_a_read_only_disk_fails_the_boot_with_advice(directory: str) -> None:
    disk = disks.ext4(f"{directory}/disk")
    disks.mark_unclean(disk)
    boot = _boot(directory, "root=/dev/vda", disk, options=",readonly=on")
    assert "cannot mount /dev/vda (ext4)" in boot.console
    assert "its journal has to be read in first" in boot.console
    assert "rootflags=noload" in boot.console


def _machine(
    directory: str, append: str, suite: str, arguments: tuple[str, ...]
) -> machine.Machine:
    kernel = assets.kernel(suite)
    append = f"{append} init=/probe panic=-1"
    image = images.make(kernel, f"{directory}/image", "--cmdline", append)
    return machine.Machine(kernel.image, append, image, qemu_arguments=arguments)


def _boot(
    directory: str, append: str, disk: str, *, suite: str = "bookworm", options: str = ""
) -> machine.Boot:
    """Boot with a disk; `options` is appended to its -drive argument."""
    arguments = disks.drives(disk, options=options)
    return machine.boot(_machine(directory, append, suite, arguments), directory)
