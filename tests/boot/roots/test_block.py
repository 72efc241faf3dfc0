"""Roots on disks: every file system, by every name, on both kernels; and all that can be wrong."""

import os
import re
from dataclasses import dataclass

import pytest

from testbed import assets
from tests.boot import disks, images, machine
from tests.boot.conftest import make_root

pytestmark = pytest.mark.boot

UNCHANGED = ",snapshot=on"  # the disk
INSPECT = """
echo; echo "=== mounts"; grep -E '^[^ ]+ (/|/rom|/overlay) ' /proc/mounts
echo; echo "=== write"; echo hello 2>&1 >/written; cat /written
"""


@pytest.fixture(scope="module")
def system(shared_directory: str) -> str:
    return make_root(f"{shared_directory}/root", INSPECT)


@pytest.fixture(scope="module")
def contents(system: str, shared_directory: str) -> dict[str, str]:
    """The system as an image of each file system."""
    options = ("-L", "my root")
    return {
        "ext4": disks.ext4(f"{shared_directory}/ext4", system, options=options),
        "squashfs": disks.squashfs(f"{shared_directory}/squashfs", system),
        "erofs": disks.erofs(f"{shared_directory}/erofs", system),
    }


@dataclass(frozen=True)
class Case:
    """A disk, the words that ask for it, and how it is then mounted."""

    content: str
    append: str  # with {UUID} of the content, {GPT} and {MBR} for the PARTUUIDs of whole disks
    mounted: str
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
def test_a_root_on_a_disk(case: Case, contents: dict[str, str], directory: str) -> None:
    disk = f"{directory}/disk"
    words = {"UUID": disks.uuid(contents[case.content])}
    if "{GPT}" in case.append:
        words["GPT"] = disks.gpt(disk, contents[case.content])
    elif "{MBR}" in case.append:
        words["MBR"] = disks.mbr(disk, contents[case.content])
    else:
        os.link(contents[case.content], disk)
    boot = _boot(directory, case.append.format(**words), disk, suite=case.suite, options=UNCHANGED)
    assert re.search(rf"^{case.mounted}\b", boot.section("mounts"), re.M), boot.section("mounts")
    said = "hello" if case.writable else "Read-only file system"
    assert said in boot.section("write")
    unwritable = "rw" in case.append.split() and not case.writable
    assert ("squashfs cannot be written to, so the root is read-only" in boot.console) == unwritable
    assert boot.status == 0


@pytest.mark.parametrize(
    ("suite", "name"),
    [("bookworm", "/dev/vda"), ("trixie", '"LABEL=my root"')],
)
def test_a_disk_that_appears_late_is_waited_for(
    suite: str, name: str, contents: dict[str, str], directory: str
) -> None:
    append = f"debug initrd.timeout=60 root={name}"
    arguments = [*machine.FREE_SLOT]
    arguments += ["-drive", f"file={contents['ext4']},format=raw,if=none,id=disk,readonly=on"]
    it = _machine(directory, append, suite, tuple(arguments))
    with machine.running(it, directory) as guest:
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
    "no superblock left": (
        "gone",
        "root=/dev/vda",
        ("cannot mount /dev/vda", "no file system is recognized on it"),
    ),
    "no superblock left where its type is given": (
        "gone",
        "root=/dev/vda rootfstype=ext4",
        ("cannot mount /dev/vda (ext4)", "no file system is recognized on it"),
    ),
    "a superblock of nonsense": (
        "nonsense",
        "root=/dev/vda",
        ("cannot mount /dev/vda (ext4)", "its superblock is damaged"),
    ),
    "an option of nonsense": (
        "ext4",
        "root=/dev/vda rootflags=nonsense",
        ("cannot mount /dev/vda (ext4)", "nonsense", "an option is not understood"),
    ),
    "a disk for itself and its overlay": (
        "ext4",
        "root=/dev/vda overlay_root=vda",
        ("cannot keep the overlay on /dev/vda: it is the device of the root itself",),
    ),
}


@pytest.mark.parametrize(("content", "append", "says"), FAILURES.values(), ids=FAILURES)
def test_what_is_wrong_with_a_disk_is_said(
    content: str, append: str, says: tuple[str, ...], contents: dict[str, str], directory: str
) -> None:
    disk = f"{directory}/disk"
    if content in contents:
        os.link(contents[content], disk)
    else:
        disks.ext4(disk)
        zeros, nonsense = (1024, bytes(1024)), (1024 + 0x18, b"\xff" * 4)  # s_log_block_size
        disks.overwrite(disk, *(zeros if content == "gone" else nonsense))
    boot = _boot(directory, f"initrd.timeout=0.5 {append}", disk, options=UNCHANGED)
    for text in ("initrd: boot failed: ", *says):
        assert text in boot.console
    assert "Power down" in boot.console
    assert "Traceback" not in boot.console


def test_a_journal_that_cannot_be_read_in_is_said(directory: str) -> None:
    disk = disks.ext4(f"{directory}/disk")
    disks.leave_journal(disk)
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
    """Boot with a disk, which has more options of QEMU's."""
    arguments = disks.drives(disk, options=options)
    return machine.boot(_machine(directory, append, suite, arguments), directory)
