"""Why a boot failed, in words that help; and where its console is kept."""

import os
from pathlib import Path

import pytest

from initrd.host.qemu import console
from initrd.host.qemu.console import explain_boot_failure, explain_oom_kill, explain_refusal

KERNEL = "/boot/vmlinuz-6"
RESET = "the machine reset itself before its kernel said a word"


@pytest.mark.parametrize(
    ("why", "memory", "told"),
    [
        pytest.param(
            "boot failed: cannot mount x: no tag x\ntry: check the tag",
            1 << 30,
            "the boot failed: cannot mount x: no tag x\ntry: check the tag",
            id="the guest's own advice",
        ),
        pytest.param(
            "boot failed: cannot execute the target /a: it is a directory\n"
            "try: set init=PATH to a program",
            1 << 30,
            "the boot failed: cannot execute the target /a: it is a directory\n"
            "try: a program of the root: chrootvm ROOTFS INIT",
            id="no such INIT",
        ),
        pytest.param("it is off", 1 << 30, "the boot failed: it is off", id="no advice"),
        pytest.param(
            "the kernel panicked: System is deadlocked on memory",
            72 << 20,
            "the boot failed: out of memory at 72M: the kernel panicked: System is deadlocked on "
            "memory\ntry: --memory 144M",
            id="memory",
        ),
        pytest.param(
            RESET,
            64 << 20,
            f"the boot failed: out of memory at 64M: {RESET}\ntry: --memory 128M",
            id="too little memory to say so",
        ),
        pytest.param(
            RESET,
            1 << 30,
            f"the boot failed: {RESET}\n"
            f"try: another kernel: {KERNEL} is damaged, or not for this machine",
            id="enough memory",
        ),
        pytest.param(
            "no virtio transport: no module virtio_pci in the image\ntry: mkvirtinitrd",
            1 << 30,
            "the boot failed: no virtio transport: no module virtio_pci in the image\n"
            f"try: --modules DIR, the lib/modules/VERSION of {KERNEL}",
            id="no modules",
        ),
        pytest.param(
            "the kernel panicked: VFS: Unable to mount root fs on unknown-block(0,0)",
            1 << 30,
            "the boot failed: the kernel panicked: VFS: Unable to mount root fs on unknown-block"
            f"(0,0)\ntry: another kernel: {KERNEL} does not start an initramfs "
            "(CONFIG_BLK_DEV_INITRD)",
            id="no initramfs",
        ),
    ],
)
def test_a_failed_boot_is_explained(why: str, memory: int, told: str) -> None:
    assert str(explain_boot_failure(why, memory, KERNEL)) == told


def test_what_the_root_has_not_is_one_line_whatever_its_name() -> None:
    assert str(explain_refusal("cannot enter the directory /a: b: Not a directory")) == (
        "cannot enter the directory /a: b: Not a directory"
    )
    assert str(explain_refusal("cannot run the command as x\ntry: b: there is no user b")) == (
        "cannot run the command as x\\ntry: b: there is no user b"
    )


def test_what_the_kernel_killed_for_memory_is_named() -> None:
    console = "[ 1.0] Out of memory: Killed process 77 (cc1) total-vm:1kB\n" * 2
    assert explain_oom_kill(console, 1 << 30) == (
        "the guest ran out of memory at 1024M and killed cc1, cc1; try --memory 2048M"
    )
    assert explain_oom_kill("all is well", 1 << 30) == ""


def test_a_console_is_kept_for_its_owner_alone(tmp_path: Path) -> None:
    path = Path(console.save_console_log(f"{tmp_path}/a/b", "said \udcff\n"))
    assert path.read_bytes() == b"said \xff\n"
    assert (path.stat().st_mode & 0o777, path.parent.stat().st_mode & 0o777) == (0o600, 0o700)


def test_the_last_ones_are_kept(tmp_path: Path) -> None:
    paths = [
        console.save_console_log(str(tmp_path), "", now=float(day * 86400)) for day in range(15)
    ]
    assert sorted(os.listdir(tmp_path)) == [os.path.basename(path) for path in paths[-10:]]


def test_a_console_that_cannot_be_kept_is_no_reason_to_stop(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert console.save_console_log(f"{tmp_path}/file/logs", "text") == ""
