import pytest

from initrd.host import needs
from initrd.host.needs import Need
from initrd.options import BootOptions, CmdlineError, Share


def required(found: tuple[Need, ...]) -> set[str]:
    """One name of each need that has to be met: what a test can name."""
    return {need.modules[0] for need in found if not need.optional}


def optional(found: tuple[Need, ...]) -> set[str]:
    return {need.modules[0] for need in found if need.optional}


BASE = {"virtio_pci", "virtiofs"}


@pytest.mark.parametrize(
    ("cmdline", "modules"),
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
def test_a_command_line_tells_the_modules(cmdline: str, modules: set[str]) -> None:
    assert required(needs.for_cmdline(cmdline)) == modules


def test_virtiofs_is_not_insisted_on_when_nothing_is_shared() -> None:
    assert "virtiofs" in optional(needs.for_cmdline("root=/dev/vda"))


def test_a_bundle_may_need_an_overlay() -> None:
    assert "overlay" in optional(needs.for_cmdline("initrd.bundle=/c"))


def test_a_disk_of_unknown_type_gets_all_that_are_probed() -> None:
    disk = needs.for_cmdline("root=LABEL=x")[-1]
    assert {"ext4", "fs-squashfs", "erofs"} <= set(disk.modules)


def test_options_and_their_text_need_the_same() -> None:
    options = BootOptions(shares=(Share("x"),), overlay="ram")
    assert needs.for_options(options) == needs.for_cmdline("mount=x overlay_root=ram")


def test_a_command_line_that_cannot_be_understood_is_an_error() -> None:
    with pytest.raises(CmdlineError, match="root=foo"):
        needs.for_cmdline("root=foo")
