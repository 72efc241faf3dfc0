"""QEMU's messages about ports and disk images that are in use."""

import socket

import pytest

from initrd.host.qemu.arch import find_arch
from initrd.host.qemu.argv import Disk, Hardware, PublishedPort, Setup
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
FORWARDING = "qemu: -netdev user,id=net: Could not set up host forwarding rule '{}'"
LOCKING = 'qemu: -device virtio-blk-pci,drive=d: Failed to get {}"write" lock'
IMAGE = "; Is another process using the image [{}]?"


@pytest.mark.parametrize("in_use", [True, False])
def test_port_that_qemu_cannot_publish_is_named_with_the_reason(*, in_use: bool) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = PublishedPort("127.0.0.1", other.getsockname()[1], 80)
        if not in_use:
            other.close()
        setup = SETUP.replace(published=(PublishedPort("127.0.0.1", 1, 2), port))
        error = explain_refused_resource(FORWARDING.format(port.rule), setup)
    assert error
    assert error.what == f"cannot publish {port.name}"
    assert error.why == ("Address already in use" if in_use else "QEMU cannot listen there")


def test_address_that_the_host_does_not_have_is_the_reason() -> None:
    port = PublishedPort("192.0.2.1", 8080, 80)
    text = FORWARDING.format(port.rule)
    error = explain_refused_resource(text, SETUP.replace(published=(port,)))
    assert error
    assert error.why == "Cannot assign requested address"


def test_disk_that_qemu_cannot_open_is_named_with_the_reason() -> None:
    text = "qemu: -drive if=none,file=/b,, [c]: Could not open '/b, [c]': No such file or directory"
    error = explain_refused_resource(text, SETUP)
    assert error
    assert str(error) == "cannot use /b, [c] as a disk: No such file or directory"


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
        (FORWARDING.format("tcp:127.0.0.1:1-:2"), {}),  # of a --qemu-arg
        (LOCKING.format(""), {"disks": ()}),
    ],
)
def test_other_messages_are_not_explained(text: str, changes: dict[str, object]) -> None:
    assert explain_refused_resource(text, SETUP.replace(**changes)) is None
