"""The requirements of kernel command lines and boot options."""

import pytest

from initrd.host.image import modules
from initrd.host.image.modules import Requirement
from initrd.options import BootOptions, CmdlineError, Share


def required_names(found: tuple[Requirement, ...]) -> set[str]:
    """Return the first module of each requirement that has to be met."""
    return {requirement.modules[0] for requirement in found if not requirement.optional}


def optional_names(found: tuple[Requirement, ...]) -> set[str]:
    """Return the first module of each optional requirement."""
    return {requirement.modules[0] for requirement in found if requirement.optional}


BASE = {"virtio_pci", "virtiofs"}


@pytest.mark.parametrize(
    ("cmdline", "expected"),
    [
        pytest.param("", BASE, id="empty: a virtiofs root"),
        pytest.param("rootfs=x mount=y quiet foo=bar", BASE, id="shares"),
        pytest.param("overlay_root=ram", BASE | {"overlay"}, id="overlay in memory"),
        pytest.param(
            "overlay_root=vdb", BASE | {"overlay", "virtio_blk", "fs-ext4"}, id="overlay on a disk"
        ),
        pytest.param(
            "overlay_root=ram initrd.union=unionfs-fuse", BASE | {"fuse"}, id="union in user space"
        ),
        pytest.param(
            "root=/dev/vda",
            {"virtio_pci", "virtio_blk", "fs-ext4"},
            id="root on a disk of any type",
        ),
        pytest.param(
            "root=/dev/sda1 rootfstype=iso9660",
            {"virtio_pci", "virtio_scsi", "sd_mod", "fs-iso9660"},
            id="root on a SCSI disk of known type",
        ),
        pytest.param(
            "root=UUID=1-2 rootfstype=xfs",
            {"virtio_pci", "virtio_blk", "fs-xfs"},
            id="root by UUID",
        ),
        pytest.param(
            "root=/dev/sr0",
            {"virtio_pci", "virtio_scsi", "sr_mod", "fs-ext4"},
            id="root on a CD-ROM",
        ),
        pytest.param(
            "root=/dev/nvme0n1p1 rootfstype=ext4",
            {"virtio_pci", "nvme", "fs-ext4"},
            id="root on an NVMe disk",
        ),
        pytest.param(
            "root=/dev/vda mount=x", BASE | {"virtio_blk", "fs-ext4"}, id="disk and share"
        ),
        pytest.param("root=tmpfs", {"virtio_pci"}, id="root in memory"),
        pytest.param("ip=dhcp", BASE | {"virtio_net"}, id="network"),
        pytest.param("ip=off", BASE, id="no network"),
        pytest.param("console=ttyS0 console=hvc0", BASE | {"virtio_console"}, id="virtio console"),
        pytest.param("init=/bin/sh -- console=hvc0", BASE, id="init's arguments are not options"),
    ],
)
def test_a_command_line_has_the_expected_requirements(cmdline: str, expected: set[str]) -> None:
    assert required_names(modules.requirements_of_cmdline(cmdline)) == expected


def test_virtiofs_is_optional_when_no_directory_is_shared() -> None:
    assert "virtiofs" in optional_names(modules.requirements_of_cmdline("root=/dev/vda"))


def test_the_overlay_module_is_optional_for_a_bundle() -> None:
    assert "overlay" in optional_names(modules.requirements_of_cmdline("initrd.bundle=/c"))


def test_a_disk_of_unknown_type_requires_any_file_system_that_is_probed() -> None:
    disk = modules.requirements_of_cmdline("root=LABEL=x")[-1]
    assert {"ext4", "fs-squashfs", "erofs", "fs-iso9660"} <= set(disk.modules)


@pytest.mark.parametrize("source", ["LABEL=x", "UUID=1-2", "PARTUUID=1-2"])
def test_a_disk_that_is_not_named_may_be_behind_any_controller(source: str) -> None:
    found = modules.requirements_of_cmdline(f"root={source} rootfstype=ext4")
    words = {word for requirement in found for word in requirement.modules}
    assert {"virtio_blk", "virtio_scsi", "ahci", "ata_piix", "nvme", "sd_mod", "sr_mod"} <= words
    assert {"sd_mod", "sr_mod"} <= optional_names(found)


@pytest.mark.parametrize("device", ["/dev/vda", "/dev/mmcblk0"])
def test_a_named_disk_adds_no_other_controllers(device: str) -> None:
    found = modules.requirements_of_cmdline(f"root={device} rootfstype=ext4")
    words = {word for requirement in found for word in requirement.modules}
    assert not {"virtio_scsi", "ahci", "sd_mod", "sr_mod"} & words


def test_options_and_their_command_line_have_the_same_requirements() -> None:
    options = BootOptions(shares=(Share("x"),), overlay="ram")
    assert modules.requirements_of_options(options) == modules.requirements_of_cmdline(
        "mount=x overlay_root=ram"
    )


def test_a_command_line_that_cannot_be_understood_is_an_error() -> None:
    with pytest.raises(CmdlineError, match="root=foo"):
        modules.requirements_of_cmdline("root=foo")
