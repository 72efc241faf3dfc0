"""root=tmpfs on a fake kernel."""

import errno
import os
from typing import Any

import pytest

from initrd.cmdline import parse
from initrd.guest._syscalls import MNT_DETACH, MS_BIND, MS_NOATIME, MS_RDONLY, MS_REMOUNT
from initrd.guest.failure import BootError
from initrd.guest.log import Log
from initrd.guest.roots.mount import mount_root
from initrd.guest.roots.tmpfs import make_exclusion
from tests.fake_roots_kernel import LayerKernel


def run(kernel: LayerKernel, cmdline: str = "root=tmpfs") -> list[tuple[Any, ...]]:
    log = Log(kernel)  # type: ignore[arg-type]
    mount_root(parse(cmdline), kernel, log)  # type: ignore[arg-type]
    return kernel.calls


def test_initramfs_is_moved_to_a_tmpfs() -> None:
    assert run(LayerKernel()) == [
        ("make_directory", "/sysroot"),
        ("mount", "tmpfs", "/sysroot", "tmpfs", 0, "mode=0755,size=100%"),
        ("make_directory", "/run/initramfs"),
        ("mount", "/", "/run/initramfs", "", MS_BIND, ""),
        ("make_directory", "/sysroot"),
        ("mount", "tmpfs", "/sysroot", "tmpfs", MS_REMOUNT, "nr_inodes=250"),
        ("move_tree", 1, 2),
        ("unmount", "/run/initramfs", MNT_DETACH),
        ("remove_directory", "/run/initramfs"),
        ("make_directory", "/sysroot"),
        # size=: the used space and half of the free space, of 1024000 bytes with 409600 free.
        ("mount", "tmpfs", "/sysroot", "tmpfs", MS_REMOUNT, "size=819200"),
    ]


def test_size_and_nr_inodes_of_rootflags_are_kept() -> None:
    calls = run(LayerKernel(), "root=tmpfs rootflags=noatime,size=90%,nr_inodes=5")
    mounts = [call[4:] for call in calls if call[0] == "mount" and call[1] == "tmpfs"]
    assert mounts == [
        (MS_NOATIME, "mode=0755,size=100%,size=90%,nr_inodes=5"),
        (MS_NOATIME | MS_REMOUNT, ""),
        (MS_NOATIME | MS_REMOUNT, ""),
    ]


@pytest.mark.parametrize(("word", "flag"), [("ro", MS_RDONLY), ("rw", 0), ("", 0)])
def test_tmpfs_root_is_writable_without_ro(word: str, flag: int) -> None:
    calls = run(LayerKernel(), f"root=tmpfs {word}")
    assert calls[-1][4] == MS_REMOUNT | flag


def test_tmpfs_root_with_an_overlay_is_read_only_at_rom() -> None:
    kernel = LayerKernel()
    run(kernel, "root=tmpfs rw overlay_root=ram")
    mounts = [call[:5] for call in kernel.calls_named("mount") if call[1] == "tmpfs"]
    assert mounts[:3] == [
        ("mount", "tmpfs", "/rom", "tmpfs", 0),
        ("mount", "tmpfs", "/rom", "tmpfs", MS_REMOUNT),
        ("mount", "tmpfs", "/rom", "tmpfs", MS_REMOUNT | MS_RDONLY),
    ]


@pytest.mark.parametrize(
    ("path", "is_excluded"),
    [
        ("init", True),
        (".initrd", True),
        ("sysroot", True),
        ("usr/lib/modules/000-virtio.ko", True),
        ("usr/lib/modules/000-virtio.ko.xz", True),
        ("usr/lib/modules/6.1/kernel/fs/fuse.ko", False),
        ("usr/lib/modules/6.1", False),
        ("usr/lib/modules", False),
        ("usr/init", False),
        ("sbin/init", False),
        ("lib/modules/x.ko", False),
        ("sysroot/etc", False),
    ],
)
def test_files_of_init_are_not_moved(path: str, is_excluded: bool) -> None:
    assert make_exclusion("/sysroot", created_by_init=True)(tuple(path.split("/"))) == is_excluded


def test_sysroot_directory_of_the_image_is_moved() -> None:
    assert not make_exclusion("/sysroot", created_by_init=False)(("sysroot",))


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.ENOMEM])
def test_move_without_enough_memory_suggests_more_memory(number: int) -> None:
    hint = "more memory, or the tmpfs more of it: rootflags=size="
    with pytest.raises(BootError, match=hint) as caught:
        run(LayerKernel(errors={"move_tree": number}))
    assert str(caught.value).startswith("cannot move ")
    assert f" from the initramfs to the tmpfs root: {os.strerror(number)}" in str(caught.value)


def test_failure_of_each_step_is_reported() -> None:
    for number in range(len(run(LayerKernel()))):
        with pytest.raises(BootError, match="Input/output error"):
            run(LayerKernel(fail_call=number))
