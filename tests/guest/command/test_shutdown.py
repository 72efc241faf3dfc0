"""Sync, read-only remount and unmount before the power-off, on a fake kernel."""

import pytest

from initrd.guest._syscalls import MS_RDONLY, MS_REMOUNT
from initrd.guest.command.shutdown import MountEntry, find_writable_mounts, unmount_all
from initrd.guest.log import Log
from tests.fake_kernel import FakeKernel

MOUNTINFO = """\
1 1 0:2 / / rw - rootfs rootfs rw
22 1 0:20 / / ro,relatime - virtiofs rootfs ro
23 22 0:21 / /proc rw,nosuid - proc proc rw
24 22 0:5 / /dev rw,nosuid shared:1 - devtmpfs devtmpfs rw,size=4096k
30 22 0:40 / /run/mnt/data rw,relatime - virtiofs data rw
31 22 0:41 / /run/mnt/a\\040b\\134c rw,relatime master:2 - virtiofs more rw
32 22 254:0 / /mnt rw,noatime shared:7 master:3 - ext4 /dev/vda rw,errors=remount-ro
33 32 254:0 /sub /bind ro,noatime - ext4 /dev/vda rw
34 22 254:1 / /read rw - squashfs /dev/vdb ro
"""
OVERLAY = "40 1 0:50 / / rw,noatime - overlay overlay rw,lowerdir=/rom\n"
RO = MS_REMOUNT | MS_RDONLY


def shut_down(mountinfo: str, **kwargs: object) -> FakeKernel:
    kernel = FakeKernel(files={"/proc/self/mountinfo": mountinfo}, **kwargs)  # type: ignore[arg-type]
    unmount_all(kernel, Log(kernel))  # type: ignore[arg-type]
    return kernel


def test_writable_mounts_exclude_read_only_and_memory_file_systems_latest_first() -> None:
    assert find_writable_mounts(MOUNTINFO) == (
        MountEntry("/mnt", "ext4", writable=True),
        MountEntry("/run/mnt/a b\\c", "virtiofs", writable=True),
        MountEntry("/run/mnt/data", "virtiofs", writable=True),
    )


# The kernel escapes spaces, tabs, line feeds and backslashes only, in mount points and in sources.
@pytest.mark.parametrize("char", ["\r", "\f", "\x85", "\u2028"])
def test_other_line_breaks_in_names_begin_no_line(char: str) -> None:
    line = f"35 22 254:2 / /a{char}b rw - ext4 c{char}d rw\n"
    assert find_writable_mounts(line) == (MountEntry(f"/a{char}b", "ext4", writable=True),)


def test_shutdown_calls_sync_first() -> None:
    assert shut_down(MOUNTINFO).calls[0] == ("sync",)


def test_writable_mount_is_remounted_read_only_and_unmounted() -> None:
    kernel = shut_down("30 22 0:40 / /data rw - virtiofs data rw\n")
    assert kernel.calls[1:] == [("mount", "", "/data", "", RO, ""), ("unmount", "/data", 0)]
    assert kernel.output == ""


def test_root_is_remounted_read_only_but_not_unmounted() -> None:
    assert shut_down(OVERLAY).calls[1:] == [("mount", "", "/", "", RO, "")]


@pytest.mark.parametrize("call", ["mount", "unmount"])
def test_one_failure_of_remount_or_unmount_gives_no_warning(call: str) -> None:
    assert shut_down("30 22 0:40 / /data rw - ext4 data rw\n", errors={call: 16}).output == ""


def test_warning_names_a_file_system_in_use() -> None:
    kernel = shut_down(MOUNTINFO + OVERLAY, errors={"mount": 16, "unmount": 16})
    for word in ("/mnt (ext4)", "/run/mnt/data (virtiofs)", "/ (overlay)", "busy"):
        assert word in kernel.output


def test_shutdown_without_proc_still_calls_sync() -> None:
    kernel = FakeKernel()
    unmount_all(kernel, Log(kernel))  # type: ignore[arg-type]
    assert kernel.calls == [("sync",)]
    assert "synced" in kernel.output
