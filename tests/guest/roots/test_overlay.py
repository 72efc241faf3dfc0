"""The overlay root on a fake kernel: its mounts, and its errors."""

import errno
from typing import Any

import pytest

from initrd.cmdline import parse
from initrd.guest._syscalls import MS_MOVE, MS_NOATIME, MS_RDONLY
from initrd.guest.failure import BootError
from initrd.guest.log import Log
from initrd.guest.roots.mount import mount_root
from tests.fake_roots_kernel import LayerKernel, device, ext, squashfs

OVERLAY_DATA = (
    "lowerdir=/rom,upperdir=/overlay/root,workdir=/overlay/work,"
    "redirect_dir=on,index=off,metacopy=off"
)
OVERLAY_DISK_MOUNT = ("mount", "/dev/vdb", "/overlay", "ext4", MS_NOATIME, "errors=remount-ro")


def run(kernel: LayerKernel, cmdline: str) -> list[tuple[Any, ...]]:
    log = Log(kernel)  # type: ignore[arg-type]
    log.set_verbose(False)
    mount_root(parse(cmdline), kernel, log)  # type: ignore[arg-type]
    return kernel.calls


def mounts(kernel: LayerKernel) -> list[tuple[Any, ...]]:
    return [call[1:4] for call in kernel.calls_named("mount")]


def virtio_kernel(*directories: str, **kwargs: Any) -> LayerKernel:
    return LayerKernel(directories=("/sys/bus/pci/drivers/virtio-pci", *directories), **kwargs)


def test_overlay_root_ram_mounts_a_tmpfs_as_the_upper_layer() -> None:
    assert run(virtio_kernel(), "rootfs=r overlay_root=ram initrd.overlay_size=64m") == [
        ("make_directory", "/rom"),
        ("mount", "r", "/rom", "virtiofs", MS_RDONLY, ""),
        ("make_directory", "/overlay"),
        ("mount", "tmpfs", "/overlay", "tmpfs", MS_NOATIME, "mode=0755,size=64m"),
        ("make_directory", "/overlay/root"),
        ("copy_access", "/rom", "/overlay/root"),
        ("make_directory", "/overlay/work"),
        ("make_directory", "/sysroot"),
        ("mount", "overlay", "/sysroot", "overlay", MS_NOATIME, OVERLAY_DATA),
        ("make_directory", "/sysroot/volumes"),
        ("make_directory", "/sysroot/rom"),
        ("mount", "/rom", "/sysroot/rom", "", MS_MOVE, ""),
        ("make_directory", "/sysroot/overlay"),
        ("mount", "/overlay", "/sysroot/overlay", "", MS_MOVE, ""),
    ]


def test_overlay_root_with_a_device_name_mounts_the_disk_as_the_upper_layer() -> None:
    kernel = virtio_kernel(disks={"vdb": ext()})
    run(kernel, "overlay_root=vdb")
    assert OVERLAY_DISK_MOUNT in kernel.calls


def test_overlay_disk_is_also_mounted_at_run_initramfs_overlay() -> None:
    kernel = virtio_kernel(disks={"vdb": ext()})
    run(kernel, "overlay_root=vdb")
    assert mounts(kernel)[2:4] == [
        ("overlay", "/sysroot", "overlay"),
        ("/overlay", "/run/initramfs/overlay", ""),
    ]


def test_existing_upper_layer_keeps_its_owner_and_mode() -> None:
    kernel = virtio_kernel("/overlay/root", disks={"vdb": ext()})
    run(kernel, "overlay_root=vdb")
    assert kernel.calls_named("copy_access") == []


def test_overlay_size_with_an_overlay_disk_warns() -> None:
    kernel = virtio_kernel(disks={"vdb": ext()})
    run(kernel, "overlay_root=vdb initrd.overlay_size=1g")
    assert (
        "initrd.overlay_size= is for overlay_root=ram; /dev/vdb has its own size" in kernel.output
    )
    assert OVERLAY_DISK_MOUNT in kernel.calls


def test_error_for_a_damaged_overlay_disk_suggests_e2fsck() -> None:
    errors: Any = {("mount", "/dev/vdb"): errno.EUCLEAN}
    with pytest.raises(BootError, match=r"(?s)cannot mount /dev/vdb \(ext4\).*try: .*e2fsck"):
        run(virtio_kernel(disks={"vdb": ext()}, errors=errors), "overlay_root=vdb")


@pytest.mark.parametrize("fields", [{"links": {"/sysroot/volumes": "/srv"}}, {}])
def test_existing_volumes_directory_of_the_root_is_not_created(fields: dict[str, Any]) -> None:
    kernel = virtio_kernel(**fields) if fields else virtio_kernel("/sysroot/volumes")
    assert ("make_directory", "/sysroot/volumes") not in run(kernel, "overlay_root=ram")


def test_lower_layer_is_read_only_with_rw() -> None:
    calls = run(virtio_kernel(), "rw overlay_root=ram")
    assert ("mount", "rootfs", "/rom", "virtiofs", MS_RDONLY, "") in calls


def test_lower_layer_can_be_a_disk() -> None:
    kernel = virtio_kernel(disks={"vda": squashfs(), "vdb": ext()})
    run(kernel, "root=/dev/vda rootfstype=squashfs overlay_root=vdb")
    assert mounts(kernel)[:3] == [
        ("/dev/vda", "/rom", "squashfs"),
        ("/dev/vdb", "/overlay", "ext4"),
        ("overlay", "/sysroot", "overlay"),
    ]


ERRORS_BEFORE_MOUNTING = {
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
    ("fields", "cmdline", "text"), ERRORS_BEFORE_MOUNTING.values(), ids=ERRORS_BEFORE_MOUNTING
)
def test_boot_that_cannot_have_its_overlay_fails_before_any_mount(
    fields: dict[str, Any], cmdline: str, text: str
) -> None:
    kernel = virtio_kernel(**fields)
    with pytest.raises(BootError, match=rf"(?s){text}"):
        run(kernel, cmdline)
    assert kernel.calls_named("mount", "make_directory") == []


def test_write_protected_overlay_disk_fails_before_any_mount() -> None:
    kernel = virtio_kernel(disks={"vdb": ext()})
    kernel.files["/sys/class/block/vdb/ro"] = "1\n"
    with pytest.raises(BootError, match="/dev/vdb: the device is write-protected"):
        run(kernel, "overlay_root=vdb")
    assert kernel.calls_named("mount") == []


@pytest.mark.parametrize("path", ["/rom", "/overlay"])
def test_files_of_the_root_hidden_by_the_layers_are_warned_about(path: str) -> None:
    kernel = virtio_kernel(files={f"/sysroot{path}/file": ""})
    run(kernel, "overlay_root=ram")
    assert f"the root has files in {path}: they are hidden now, see /rom{path}" in kernel.output


def test_empty_directories_of_the_root_are_used_without_a_warning() -> None:
    kernel = virtio_kernel("/sysroot/rom", "/sysroot/overlay", "/sysroot/volumes")
    run(kernel, "overlay_root=ram")
    assert kernel.output == ""


@pytest.mark.parametrize("path", ["/rom", "/overlay"])
@pytest.mark.parametrize("kind", ["file", "symlink"])
def test_rom_or_overlay_of_the_root_that_is_no_directory_is_an_error(path: str, kind: str) -> None:
    target = f"/sysroot{path}"
    kernel = virtio_kernel(
        files={target: ""} if kind == "file" else {}, links={target: "/elsewhere"}
    )
    with pytest.raises(BootError, match=f"the root has a {path} that is no directory"):
        run(kernel, "overlay_root=ram")
    assert not [call for call in kernel.calls_named("mount") if call[4] == MS_MOVE]


def test_failure_of_each_step_raises_an_error_that_names_it() -> None:
    steps = len(run(virtio_kernel(disks={"vdb": ext()}), "overlay_root=vdb"))
    for number in range(1, steps):  # call 0 reads the superblock of the device
        kernel = virtio_kernel(disks={"vdb": ext()}, fail_call=number)
        with pytest.raises(BootError, match=r"cannot .*: Input/output error"):
            run(kernel, "overlay_root=vdb")
