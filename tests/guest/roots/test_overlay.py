"""The overlay root, on a kernel that only records; and every place where it can break."""

import errno
from typing import Any

import pytest

from initrd.cmdline import parse
from initrd.guest._syscalls import MS_MOVE, MS_NOATIME, MS_RDONLY
from initrd.guest.failure import BootError
from initrd.guest.log import Log
from initrd.guest.roots.mount import mount_root
from tests.layer_kernel import LayerKernel, device, ext, squashfs

MERGE = (
    "lowerdir=/rom,upperdir=/overlay/root,workdir=/overlay/work,"
    "redirect_dir=on,index=off,metacopy=off"
)
LAYER_ON_DISK = ("mount", "/dev/vdb", "/overlay", "ext4", MS_NOATIME, "errors=remount-ro")


def run(kernel: LayerKernel, cmdline: str) -> list[tuple[Any, ...]]:
    log = Log(kernel)  # type: ignore[arg-type]
    log.set_verbose(False)
    mount_root(parse(cmdline), kernel, log)  # type: ignore[arg-type]
    return kernel.calls


def mounts(kernel: LayerKernel) -> list[tuple[Any, ...]]:
    return [call[1:4] for call in kernel.named("mount")]


def virtio(*directories: str, **kwargs: Any) -> LayerKernel:
    return LayerKernel(directories=("/sys/bus/pci/drivers/virtio-pci", *directories), **kwargs)


def test_the_layer_is_kept_in_memory() -> None:
    assert run(virtio(), "rootfs=r overlay_root=ram initrd.overlay_size=64m") == [
        ("make_directory", "/rom"),
        ("mount", "r", "/rom", "virtiofs", MS_RDONLY, ""),
        ("make_directory", "/overlay"),
        ("mount", "tmpfs", "/overlay", "tmpfs", MS_NOATIME, "mode=0755,size=64m"),
        ("make_directory", "/overlay/root"),
        ("copy_access", "/rom", "/overlay/root"),
        ("make_directory", "/overlay/work"),
        ("make_directory", "/sysroot"),
        ("mount", "overlay", "/sysroot", "overlay", MS_NOATIME, MERGE),
        ("make_directory", "/sysroot/volumes"),
        ("make_directory", "/sysroot/rom"),
        ("mount", "/rom", "/sysroot/rom", "", MS_MOVE, ""),
        ("make_directory", "/sysroot/overlay"),
        ("mount", "/overlay", "/sysroot/overlay", "", MS_MOVE, ""),
    ]


def test_the_layer_is_kept_on_a_disk() -> None:
    kernel = virtio(disks={"vdb": ext()})
    run(kernel, "overlay_root=vdb")
    assert LAYER_ON_DISK in kernel.calls


def test_a_disk_is_also_mounted_where_it_stays_to_the_end() -> None:
    kernel = virtio(disks={"vdb": ext()})
    run(kernel, "overlay_root=vdb")
    assert mounts(kernel)[2:4] == [
        ("overlay", "/sysroot", "overlay"),
        ("/overlay", "/run/initramfs/overlay", ""),
    ]


def test_a_layer_that_was_written_before_is_left_as_it_is() -> None:
    kernel = virtio("/overlay/root", disks={"vdb": ext()})
    run(kernel, "overlay_root=vdb")
    assert kernel.named("copy_access") == []


def test_a_size_is_not_for_a_disk() -> None:
    kernel = virtio(disks={"vdb": ext()})
    run(kernel, "overlay_root=vdb initrd.overlay_size=1g")
    assert "initrd.overlay_size= is for overlay_root=ram; /dev/vdb has its own size" in kernel.said
    assert LAYER_ON_DISK in kernel.calls


def test_a_damaged_disk_is_to_be_checked() -> None:
    errors: Any = {("mount", "/dev/vdb"): errno.EUCLEAN}
    with pytest.raises(BootError, match=r"(?s)cannot mount /dev/vdb \(ext4\).*try: .*e2fsck"):
        run(virtio(disks={"vdb": ext()}, errors=errors), "overlay_root=vdb")


@pytest.mark.parametrize("there", [{"links": {"/sysroot/volumes": "/srv"}}, {}])
def test_volumes_of_the_roots_own_are_left_alone(there: dict[str, Any]) -> None:
    kernel = virtio(**there) if there else virtio("/sysroot/volumes")
    assert ("make_directory", "/sysroot/volumes") not in run(kernel, "overlay_root=ram")


def test_the_lower_layer_is_read_only_even_with_rw() -> None:
    calls = run(virtio(), "rw overlay_root=ram")
    assert ("mount", "rootfs", "/rom", "virtiofs", MS_RDONLY, "") in calls


def test_the_root_may_be_a_disk_too() -> None:
    kernel = virtio(disks={"vda": squashfs(), "vdb": ext()})
    run(kernel, "root=/dev/vda rootfstype=squashfs overlay_root=vdb")
    assert mounts(kernel)[:3] == [
        ("/dev/vda", "/rom", "squashfs"),
        ("/dev/vdb", "/overlay", "ext4"),
        ("overlay", "/sysroot", "overlay"),
    ]


BEFORE_ANYTHING = {
    "no such device": ({}, "overlay_root=vdb", "cannot find /dev/vdb: not there after 10 s"),
    "empty device": ({"disks": {"vdb": device()}}, "overlay_root=vdb", "/dev/vdb: no file system"),
    "squashfs": ({"disks": {"vdb": squashfs()}}, "overlay_root=vdb", "holds squashfs, not ext4"),
    "ext2": ({"disks": {"vdb": ext(incompat=2, compat=0)}}, "overlay_root=vdb", "not ext4"),
    "unreadable": (
        {"disks": {"vdb": ext()}, "errors": {"read_at": errno.EIO}},
        "overlay_root=vdb",
        "/dev/vdb: Input/output error",
    ),
    "no root disk": (
        {"disks": {"vdb": ext()}},
        "root=LABEL=gone overlay_root=vdb",
        "cannot find LABEL=gone",
    ),
    "the root's own disk": (
        {"disks": {"vda": ext(label=b"one")}},
        "root=LABEL=one overlay_root=vda",
        "/dev/vda: it is the device of the root itself",
    ),
    "no overlayfs": (
        {"files": {"/proc/filesystems": "nodev\ttmpfs\n"}},
        "overlay_root=ram",
        "has no overlay file system.*--overlay.*initrd.union=fuse-overlayfs.*unionfs-fuse",
    ),
    "no FUSE": (
        {},
        "overlay_root=ram initrd.union=unionfs-fuse",
        "with unionfs-fuse: this kernel has no fuse",
    ),
}


@pytest.mark.parametrize(
    ("kernel", "cmdline", "text"), BEFORE_ANYTHING.values(), ids=BEFORE_ANYTHING
)
def test_what_can_be_known_before_is_fatal_before_anything_is_mounted(
    kernel: dict[str, Any], cmdline: str, text: str
) -> None:
    fake = virtio(**kernel)
    with pytest.raises(BootError, match=rf"(?s){text}"):
        run(fake, cmdline)
    assert fake.named("mount", "make_directory") == []


def test_a_write_protected_device_is_fatal_before_anything_is_mounted() -> None:
    kernel = virtio(disks={"vdb": ext()})
    kernel.files["/sys/class/block/vdb/ro"] = "1\n"
    with pytest.raises(BootError, match="/dev/vdb: the device is write-protected"):
        run(kernel, "overlay_root=vdb")
    assert kernel.named("mount") == []


@pytest.mark.parametrize("path", ["/rom", "/overlay"])
def test_what_the_layers_hide_is_said(path: str) -> None:
    kernel = virtio(files={f"/sysroot{path}/file": ""})
    run(kernel, "overlay_root=ram")
    assert f"the root has files in {path}: they are hidden now, see /rom{path}" in kernel.said


def test_empty_directories_are_used_without_a_word() -> None:
    kernel = virtio("/sysroot/rom", "/sysroot/overlay", "/sysroot/volumes")
    run(kernel, "overlay_root=ram")
    assert kernel.said == ""


@pytest.mark.parametrize("path", ["/rom", "/overlay"])
@pytest.mark.parametrize("kind", ["file", "symlink"])
def test_nothing_is_mounted_over_what_is_no_directory(path: str, kind: str) -> None:
    place = f"/sysroot{path}"
    kernel = virtio(files={place: ""} if kind == "file" else {}, links={place: "/elsewhere"})
    with pytest.raises(BootError, match=f"the root has a {path} that is no directory"):
        run(kernel, "overlay_root=ram")
    assert not [call for call in kernel.named("mount") if call[4] == MS_MOVE]


def test_every_step_that_fails_is_named() -> None:
    steps = len(run(virtio(disks={"vdb": ext()}), "overlay_root=vdb"))
    for number in range(1, steps):  # the first is the look at the device
        kernel = virtio(disks={"vdb": ext()}, fail_call=number)
        with pytest.raises(BootError, match=r"cannot .*: Input/output error"):
            run(kernel, "overlay_root=vdb")
