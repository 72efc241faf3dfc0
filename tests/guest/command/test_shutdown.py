"""Leaving the disks in order."""

import pytest

from initrd.guest._syscalls import MS_RDONLY, MS_REMOUNT
from initrd.guest.command.shutdown import Mounted, unmount_all, writable_mounts
from initrd.guest.log import Log
from tests.fake_kernel import Call, FakeKernel

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


def actions(kernel: FakeKernel) -> list[Call]:
    return [call[:3] if call[0] == "mount" else call for call in kernel.calls]


def leave(mountinfo: str, **kwargs: object) -> FakeKernel:
    kernel = FakeKernel(files={"/proc/self/mountinfo": mountinfo}, **kwargs)  # type: ignore[arg-type]
    unmount_all(kernel, Log(kernel))  # type: ignore[arg-type]
    return kernel


def test_only_what_can_be_written_to_and_kept_is_found_the_latest_first() -> None:
    assert writable_mounts(MOUNTINFO) == (
        Mounted("/mnt", "ext4", writable=True),
        Mounted("/run/mnt/a b\\c", "virtiofs", writable=True),
        Mounted("/run/mnt/data", "virtiofs", writable=True),
    )


def test_everything_is_written_first() -> None:
    assert leave(MOUNTINFO).calls[0] == ("sync",)


def test_each_is_made_read_only_and_unmounted() -> None:
    kernel = leave("30 22 0:40 / /data rw - virtiofs data rw\n")
    assert kernel.calls[1:] == [("mount", "", "/data", "", RO, ""), ("unmount", "/data", 0)]
    assert kernel.said == ""


def test_the_root_is_only_made_read_only() -> None:
    assert leave(OVERLAY).calls[1:] == [("mount", "", "/", "", RO, "")]


@pytest.mark.parametrize("call", ["mount", "unmount"])
def test_one_of_both_is_enough(call: str) -> None:
    assert leave("30 22 0:40 / /data rw - ext4 data rw\n", errors={call: 16}).said == ""


def test_what_is_in_use_is_named_and_survived() -> None:
    kernel = leave(MOUNTINFO + OVERLAY, errors={"mount": 16, "unmount": 16})
    for word in ("/mnt (ext4)", "/run/mnt/data (virtiofs)", "/ (overlay)", "busy"):
        assert word in kernel.said


def test_without_proc_it_is_synced_at_least() -> None:
    kernel = FakeKernel()
    unmount_all(kernel, Log(kernel))  # type: ignore[arg-type]
    assert kernel.calls == [("sync",)]
    assert "synced" in kernel.said
