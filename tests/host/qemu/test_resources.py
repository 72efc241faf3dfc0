"""QEMU's messages about disk images that are in use."""

import pytest

from initrd.host.qemu.arch import find_arch
from initrd.host.qemu.argv import Disk, Hardware, Setup
from initrd.host.qemu.resources import explain_refused_resource
from initrd.host.system.files import OpenFile

SETUP = Setup(
    "qemu",
    Hardware(find_arch("x86_64"), "tcg", memory=1 << 30, cpus=1),
    OpenFile("/boot/vmlinuz"),
    OpenFile("/cache/image"),
    cmdline="",
    disks=(Disk("/a"), Disk("/b, [c]", writable=False)),
)
LOCKING = 'qemu: -device virtio-blk-pci,drive=d: Failed to get {}"write" lock'
IMAGE = "; Is another process using the image [{}]?"


@pytest.mark.parametrize("shared", ["", "shared "])
def test_disk_that_qemu_cannot_lock_is_named(shared: str) -> None:
    text = LOCKING.format(shared)
    named = explain_refused_resource(text + IMAGE.format("/b, [c]"), SETUP)
    unnamed = explain_refused_resource(text, SETUP)
    assert named
    assert unnamed
    assert named.what == "cannot use /b, [c] as a disk"
    assert unnamed.what == "cannot use /a or /b, [c] as a disk"
    assert named.why == "another program is using it"


@pytest.mark.parametrize(
    ("text", "changes"),
    [
        ("", {}),
        ("qemu: no such device", {}),
        (LOCKING.format(""), {"disks": ()}),
    ],
)
def test_other_messages_are_not_explained(text: str, changes: dict[str, object]) -> None:
    assert explain_refused_resource(text, SETUP.replace(**changes)) is None
