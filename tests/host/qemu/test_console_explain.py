"""Error messages for failed boots, and saved console logs."""

import pytest

from initrd.host.qemu.console import (
    explain_boot_failure,
    explain_failure_of_init,
    explain_oom_kill,
    explain_refusal,
)

KERNEL = "/boot/vmlinuz-6"
RESET = "the machine reset itself before its kernel printed anything"


@pytest.mark.parametrize(
    ("why", "memory", "message"),
    [
        pytest.param(
            "boot failed: cannot mount x: no tag x\ntry: check the tag",
            1 << 30,
            "the boot failed: cannot mount x: no tag x\ntry: check the tag",
            id="a hint of init",
        ),
        pytest.param(
            "boot failed: cannot execute the target /a: it is a directory\n"
            "try: set init=PATH to a program",
            1 << 30,
            "the boot failed: cannot execute the target /a: it is a directory\n"
            "try: a program of the root: chrootvm ROOTFS INIT",
            id="INIT is a directory",
        ),
        pytest.param("it is off", 1 << 30, "the boot failed: it is off", id="no hint"),
        pytest.param(
            "the kernel panicked: System is deadlocked on memory",
            72 << 20,
            "the boot failed: out of memory at 72M: the kernel panicked: System is deadlocked on "
            "memory\ntry: --memory 144M",
            id="the kernel reports a lack of memory",
        ),
        pytest.param(
            RESET,
            64 << 20,
            f"the boot failed: out of memory at 64M: {RESET}\ntry: --memory 128M",
            id="a reset with little memory",
        ),
        pytest.param(
            RESET,
            1 << 30,
            f"the boot failed: {RESET}\n"
            f"try: another kernel: {KERNEL} is damaged, or not for this machine",
            id="a reset with enough memory",
        ),
        pytest.param(
            "no virtio transport: no module virtio_pci in the image\ntry: mkvirtinitrd",
            1 << 30,
            "the boot failed: no virtio transport: no module virtio_pci in the image\n"
            f"try: --modules DIR, the lib/modules/VERSION of {KERNEL}",
            id="no module for virtio",
        ),
        pytest.param(
            "the kernel panicked: VFS: Unable to mount root fs on unknown-block(0,0)",
            1 << 30,
            "the boot failed: the kernel panicked: VFS: Unable to mount root fs on unknown-block"
            f"(0,0)\ntry: another kernel: {KERNEL} does not start an initramfs "
            "(CONFIG_BLK_DEV_INITRD)",
            id="a kernel without initramfs support",
        ),
    ],
)
def test_failed_boot_is_explained_with_a_hint(why: str, memory: int, message: str) -> None:
    assert str(explain_boot_failure(why, memory, KERNEL)) == message
    assert str(explain_failure_of_init(why, memory, KERNEL)) == message


def test_panic_while_init_may_have_run_is_no_failed_boot() -> None:
    error = explain_failure_of_init("the kernel panicked: Fatal exception", 1 << 30, KERNEL)
    assert str(error) == "the guest's kernel panicked: Fatal exception"


def test_refused_command_is_explained_in_one_line() -> None:
    assert str(explain_refusal("cannot enter the directory /a: b: Not a directory")) == (
        "cannot enter the directory /a: b: Not a directory"
    )
    assert str(explain_refusal("cannot run the command as x\ntry: b: there is no user b")) == (
        "cannot run the command as x\\ntry: b: there is no user b"
    )


def test_processes_killed_for_lack_of_memory_are_named() -> None:
    console = "[ 1.0] Out of memory: Killed process 77 (cc1) total-vm:1kB\n" * 2
    assert explain_oom_kill(console, 1 << 30) == (
        "the guest ran out of memory at 1024M and killed cc1, cc1; try --memory 2048M"
    )
    assert explain_oom_kill("all is well", 1 << 30) == ""
