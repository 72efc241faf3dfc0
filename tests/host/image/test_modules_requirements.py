import pytest

from initrd.host.image import modules
from initrd.host.image.modules import Requirement
from initrd.options import BootOptions, CmdlineError, Share


def required(found: tuple[Requirement, ...]) -> set[str]:
    """One name of each need that has to be met: what a test can name."""
    return {need.modules[0] for need in found if not need.optional}


def optional(found: tuple[Requirement, ...]) -> set[str]:
    return {need.modules[0] for need in found if need.optional}


BASE = {"virtio_pci", "virtiofs"}


@pytest.mark.parametrize(
    ("cmdline", "expected"),
    [
        pytest.param("", BASE, id="nothing said: a virtiofs root"),
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
            "root=/dev/vda mount=x", BASE | {"virtio_blk", "fs-ext4"}, id="disk and share"
        ),
        pytest.param("root=tmpfs", {"virtio_pci"}, id="root in memory"),
        pytest.param("ip=dhcp", BASE | {"virtio_net"}, id="network"),
        pytest.param("ip=off", BASE, id="no network"),
        pytest.param("console=ttyS0 console=hvc0", BASE | {"virtio_console"}, id="virtio console"),
        pytest.param("init=/bin/sh -- console=hvc0", BASE, id="init's arguments are not options"),
    ],
)
def test_a_command_line_tells_the_modules(cmdline: str, expected: set[str]) -> None:
    assert required(modules.requirements_of_cmdline(cmdline)) == expected


def test_virtiofs_is_not_insisted_on_when_nothing_is_shared() -> None:
    assert "virtiofs" in optional(modules.requirements_of_cmdline("root=/dev/vda"))


def test_a_bundle_may_need_an_overlay() -> None:
    assert "overlay" in optional(modules.requirements_of_cmdline("initrd.bundle=/c"))


def test_a_disk_of_unknown_type_gets_all_that_are_probed() -> None:
    disk = modules.requirements_of_cmdline("root=LABEL=x")[-1]
    assert {"ext4", "fs-squashfs", "erofs"} <= set(disk.modules)


def test_options_and_their_text_need_the_same() -> None:
    options = BootOptions(shares=(Share("x"),), overlay="ram")
    assert modules.requirements_of_options(options) == modules.requirements_of_cmdline(
        "mount=x overlay_root=ram"
    )


def test_a_command_line_that_cannot_be_understood_is_an_error() -> None:
    with pytest.raises(CmdlineError, match="root=foo"):
        modules.requirements_of_cmdline("root=foo")
