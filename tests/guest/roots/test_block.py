"""Block devices: finding, waiting, mounting, and errors."""

import errno
from typing import Any

import pytest

from initrd.guest._syscalls import MS_NOATIME, MS_NODEV, MS_RDONLY
from initrd.guest.failure import BootError
from initrd.guest.log import Log
from initrd.guest.roots.block import find_device, mount_device
from initrd.guest.roots.steps import split_options
from initrd.options import BLOCK, Root
from tests.fake_roots_kernel import UUID, LayerKernel, device, ext, squashfs
from tests.guest.roots.test_blkid import iso9660
from tests.guest.roots.test_blkid_partitions import PARTUUID, gpt, mbr


def find(kernel: LayerKernel, source: str, timeout: float = 10) -> str:
    return find_device(source, timeout, kernel, Log(kernel))  # type: ignore[arg-type]


def mount(kernel: LayerKernel, fstype: str = "", **fields: Any) -> list[tuple[Any, ...]]:
    root = Root(BLOCK, "/dev/vda", fstype, **fields)
    mount_device(root, "/dev/vda", "/sysroot", kernel, Log(kernel))  # type: ignore[arg-type]
    return kernel.calls_named("mount")


def kernel_with_disks_and_partitions() -> LayerKernel:
    disks = {"vda": ext(label=b"my root"), "vdb": gpt(), "vdb3": squashfs(), "vdc": mbr()}
    disks |= {"vdc1": device(), "nvme0n1": gpt(), "cciss/c0d0": device()}
    return LayerKernel(disks=disks, partitions={"vdb3": "vdb", "vdc1": "vdc"})


@pytest.mark.parametrize(
    ("source", "path"),
    [
        ("/dev/vda", "/dev/vda"),
        ("/dev/vdb3", "/dev/vdb3"),
        ("/dev/cciss/c0d0", "/dev/cciss/c0d0"),
        (f"UUID={UUID}", "/dev/vda"),
        (f"UUID={UUID.upper()}", "/dev/vda"),
        ("LABEL=my root", "/dev/vda"),
        (f"PARTUUID={PARTUUID}", "/dev/vdb3"),
        ("PARTUUID=12345678-01", "/dev/vdc1"),
    ],
)
def test_device_is_found_by_path_uuid_label_and_partuuid(source: str, path: str) -> None:
    assert find(kernel_with_disks_and_partitions(), source) == path


BUSES = {
    "/sys/bus/pci/devices/0000:00:1f.2/class": "0x010601\n",
    "/sys/bus/pci/devices/0000:00:02.0/class": "0x030000\n",
    "/sys/bus/virtio/devices/virtio0/device": "0x0008\n",
    "/sys/bus/virtio/devices/virtio0/driver": "",
    "/sys/bus/scsi/devices/0:0:0:0/type": "5\n",
    "/sys/bus/scsi/devices/0:0:1:0/type": "0\n",
    "/sys/bus/scsi/devices/0:0:1:0/driver": "",
    "/sys/bus/scsi/devices/host0/uevent": "",
}


def test_devices_without_a_driver_are_named_with_their_modules() -> None:
    kernel = LayerKernel(disks={"vda": ext()}, files=BUSES)
    with pytest.raises(BootError) as caught:
        find(kernel, "LABEL=LIVECD", 1)
    assert caught.value.why.endswith(
        "; without a driver in the image are: 0000:00:1f.2 (ahci), 0:0:0:0 (sr_mod)"
    )
    assert caught.value.hint.endswith("mkvirtinitrd --block, or --module ahci --module sr_mod")


def test_machine_without_disks_needs_one() -> None:
    with pytest.raises(BootError, match=r"no block devices at all.*\ntry: attach the disk"):
        find(LayerKernel(disks={}), "LABEL=LIVECD", 1)


@pytest.mark.parametrize("source", ["/dev/vdz", "UUID=1-2", "LABEL=MY ROOT", "PARTUUID=1-2"])
def test_missing_device_is_named_with_the_existing_devices(source: str) -> None:
    kernel = kernel_with_disks_and_partitions()
    with pytest.raises(BootError) as caught:
        find(kernel, source, 2.5)
    text = str(caught.value)
    assert f"cannot find {source}: not there after 2.5 s; the block devices there are: " in text
    assert f"/dev/vda (ext4 UUID={UUID} LABEL=my root)" in text
    assert f"/dev/vdb3 (squashfs PARTUUID={PARTUUID})" in text
    assert "initrd.timeout=" in text
    assert kernel.clock == pytest.approx(2.5)


def test_error_without_any_disk_suggests_mkvirtinitrd_block() -> None:
    with pytest.raises(BootError, match=r"no block devices at all\ntry: .*mkvirtinitrd --block"):
        find(LayerKernel(), "/dev/vda")


def test_long_list_of_disks_in_an_error_is_truncated() -> None:
    kernel = LayerKernel(disks={f"vd{letter}": b"" for letter in "abcdefghijkl"})
    with pytest.raises(BootError, match=r"/dev/vdh \(nothing known\), and 4 more"):
        find(kernel, "/dev/sda", 0)


@pytest.mark.parametrize("source", ["/dev/vdb", "LABEL=late"])
def test_late_device_is_waited_for(source: str) -> None:
    kernel = LayerKernel(disks={"vda": device()})

    def plug_in_disk(clock: float) -> None:
        if clock > 3:
            kernel.attach("vdb", ext(label=b"late"))

    kernel.after_sleep = plug_in_disk
    assert find(kernel, source) == "/dev/vdb"
    assert 3 < kernel.clock < 3.1
    assert len(kernel.calls_named("read_at")) <= 4 * 2  # devices are read only after a change


@pytest.mark.parametrize("disk", ["vda", "cciss!c0d0"])
def test_disk_counts_once_beside_its_own_partition(disk: str) -> None:
    name = disk.replace("!", "/")
    live = {name: iso9660(b"LIVE"), f"{name}1": iso9660(b"LIVE"), "vdb": ext(label=b"other")}
    kernel = LayerKernel(disks=live, partitions={f"{name}1": disk})
    assert find(kernel, "LABEL=LIVE") == f"/dev/{name}"


def test_partitions_of_two_disks_with_one_label_are_an_error() -> None:
    kernel = LayerKernel(
        disks={"vda": gpt(), "vda1": ext(label=b"a"), "vdb": gpt(), "vdb1": ext(label=b"a")},
        partitions={"vda1": "vda", "vdb1": "vdb"},
    )
    with pytest.raises(BootError, match="more than one device matches: /dev/vda1, /dev/vdb1"):
        find(kernel, "LABEL=a")


@pytest.mark.parametrize("appears_at", [0, 3])
def test_wait_for_a_device_is_logged_once(appears_at: float) -> None:
    kernel = LayerKernel(disks={"vda": device()} if appears_at else {"vdb": device()})

    def plug_in_disk(clock: float) -> None:
        for name, seconds in (("vdc", 1), ("vdd", 2)):  # two changes before the device is there
            if clock > seconds:
                kernel.attach(name, device())
        if clock > appears_at:
            kernel.attach("vdb", device())

    kernel.after_sleep = plug_in_disk
    log = Log(kernel)  # type: ignore[arg-type]
    log.set_verbose(True)
    find_device("/dev/vdb", 10, kernel, log)  # type: ignore[arg-type]
    assert kernel.output.count("waiting for /dev/vdb") == (1 if appears_at else 0)


def test_two_devices_with_one_uuid_are_an_error() -> None:
    kernel = LayerKernel(disks={"vda": ext(), "vdb": ext()})
    with pytest.raises(BootError, match="more than one device matches: /dev/vda, /dev/vdb"):
        find(kernel, f"UUID={UUID}")


def test_path_that_is_no_block_device_is_an_error() -> None:
    with pytest.raises(BootError, match="cannot use /dev/null: it is no block device"):
        find(LayerKernel(files={"/dev/null": ""}), "/dev/null")


def test_unreadable_drive_is_skipped() -> None:
    kernel = LayerKernel(
        disks={"sr0": b"", "vda": ext(label=b"x")}, errors={("read_at", "/dev/sr0"): errno.EIO}
    )
    assert find(kernel, "LABEL=x") == "/dev/vda"


def test_unreadable_drive_is_named_when_no_device_matches() -> None:
    kernel = LayerKernel(disks={"vda": ext()}, errors={("read_at", "/dev/vda"): errno.EIO})
    with pytest.raises(BootError, match=r"/dev/vda \(not readable: Input/output error\)"):
        find(kernel, f"UUID={UUID}")


def test_disk_that_could_not_be_read_at_first_is_found_at_the_deadline() -> None:
    kernel = LayerKernel(disks={"vda": ext()}, errors={("read_at", "/dev/vda"): [errno.EIO]})
    assert find(kernel, f"UUID={UUID}") == "/dev/vda"
    assert kernel.clock >= 10


def test_drive_without_a_medium_is_skipped() -> None:
    kernel = LayerKernel(disks={"loop0": ext(label=b"x"), "vda": ext(label=b"x")})
    kernel.files["/sys/class/block/loop0/size"] = "0\n"
    assert find(kernel, "LABEL=x") == "/dev/vda"


@pytest.mark.parametrize(
    ("data", "fields", "call"),
    [
        pytest.param(ext(), {}, ("ext4", MS_RDONLY, ""), id="probed"),
        pytest.param(squashfs(), {}, ("squashfs", MS_RDONLY, ""), id="probed squashfs"),
        pytest.param(b"", {"fstype": "odd"}, ("odd", MS_RDONLY, ""), id="given"),
        pytest.param(ext(), {"writable": True}, ("ext4", 0, ""), id="writable"),
        pytest.param(
            ext(),
            {"flags": "noatime,errors=panic,nodev"},
            ("ext4", MS_RDONLY | MS_NOATIME | MS_NODEV, "errors=panic"),
            id="flags",
        ),
    ],
)
def test_root_is_mounted_with_the_probed_or_given_type_and_flags(
    data: bytes, fields: Any, call: tuple[Any, ...]
) -> None:
    kernel = LayerKernel(disks={"vda": data})
    assert mount(kernel, **fields) == [("mount", "/dev/vda", "/sysroot", *call)]


def test_first_type_of_rootfstype_that_fits_is_mounted() -> None:
    errors = {("mount", "/dev/vda", "/sysroot", "erofs"): errno.ENODEV}
    errors |= {("mount", "/dev/vda", "/sysroot", "ext4"): errno.EINVAL}
    kernel = LayerKernel(disks={"vda": squashfs()}, errors=errors)
    assert [call[3] for call in mount(kernel, "erofs,ext4,squashfs,xfs")] == ["squashfs"]


MOUNT_ERRORS = {
    "empty": (device(), "", 0, "no file system is recognized on it.*rootfstype="),
    "empty, type given": (device(), "ext4", errno.EINVAL, "ext4.*no file system is recognized"),
    "wrong type": (squashfs(), "ext4", errno.EINVAL, "the device holds squashfs.*fstype=squashfs"),
    "damaged": (ext(), "", errno.EINVAL, "its superblock is damaged.*check the disk"),
    "damaged inside": (ext(), "", errno.EUCLEAN, "the file system is damaged.*fsck"),
    "unreadable inside": (ext(), "", errno.EIO, "the file system is damaged"),
    "no driver": (
        squashfs(),
        "",
        errno.ENODEV,
        "has no squashfs.*mkvirtinitrd --module fs-squashfs",
    ),
    "write-protected": (ext(), "", errno.EROFS, "journal.*write-protected.*rootflags=noload"),
    "busy": (ext(), "", errno.EBUSY, "busy"),
}


@pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES])
def test_writable_mount_of_a_write_protected_disk_is_an_error(number: int) -> None:
    kernel = LayerKernel(disks={"vda": ext()}, errors={"mount": number})
    with pytest.raises(BootError, match=r"(?s)the device is write-protected.*leave out rw"):
        mount(kernel, writable=True)


@pytest.mark.parametrize(("writable", "is_warned"), [(True, True), (False, False)])
def test_rw_with_a_read_only_file_system_type_warns(writable: bool, is_warned: bool) -> None:
    kernel = LayerKernel(disks={"vda": squashfs()})
    mount(kernel, writable=writable)
    assert ("squashfs cannot be written to, so the root is read-only" in kernel.output) == is_warned


@pytest.mark.parametrize(
    ("data", "fstype", "number", "text"), MOUNT_ERRORS.values(), ids=MOUNT_ERRORS
)
def test_mount_error_is_explained(data: bytes, fstype: str, number: int, text: str) -> None:
    kernel = LayerKernel(disks={"vda": data}, errors={"mount": number})
    with pytest.raises(BootError, match=rf"(?s)cannot mount /dev/vda.*{text}"):
        mount(kernel, fstype)


def test_mount_of_an_unreadable_disk_is_an_error() -> None:
    kernel = LayerKernel(disks={"vda": ext()}, errors={"read_at": errno.EIO})
    with pytest.raises(BootError, match="cannot read /dev/vda: Input/output error"):
        mount(kernel)


@pytest.mark.parametrize(
    ("text", "flags", "data"),
    [
        ("", 0, ""),
        ("defaults", 0, ""),
        ("noatime", MS_NOATIME, ""),
        ("noload,noatime,,data=ordered", MS_NOATIME, "noload,data=ordered"),
        ("subvol=a b", 0, "subvol=a b"),
        # The numbers of linux/mount.h.
        ("nosuid,nodev,noexec,sync", 0x2 | 0x4 | 0x8 | 0x10, ""),
        ("dirsync,noatime,nodiratime", 0x80 | 0x400 | 0x800, ""),
        ("relatime,strictatime,lazytime", 0x20_0000 | 0x100_0000 | 0x200_0000, ""),
    ],
)
def test_mount_options_are_split_into_flags_and_data(text: str, flags: int, data: str) -> None:
    assert split_options(text) == (flags, data)
