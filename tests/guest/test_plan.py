"""The plans of a boot, and the descriptions of its steps."""

import pytest

from initrd.guest._syscalls import MS_RDONLY
from initrd.guest.plan import (
    API_MOUNT_POINTS,
    api_mount_moves,
    api_mounts,
    device_nodes,
    share_mount,
)
from initrd.guest.steps import Mount, Move, Node, Symlink, Unmount
from initrd.options import Share
from tests.fake_kernel import FakeKernel


def test_api_mounts_are_ordered_parents_first() -> None:
    targets = [mount.target for mount in api_mounts()]
    for at, target in enumerate(targets):
        parent = target.rpartition("/")[0]
        assert not parent or parent in targets[:at]


def test_api_mounts_have_the_modes_and_flags_of_each_file_system() -> None:
    nosuid, nodev, noexec = 2, 4, 8  # include/uapi/linux/mount.h
    assert {mount.target: (mount.flags, mount.data) for mount in api_mounts()} == {
        "/sys": (nosuid | nodev | noexec, ""),
        "/dev": (nosuid, "mode=0755,size=4m"),
        "/proc": (nosuid | nodev | noexec, ""),
        "/run": (nosuid | nodev, "mode=0755,size=64m"),
        "/tmp": (nosuid | nodev, "mode=1777,size=128m"),  # all users write; only owners delete
        "/dev/pts": (nosuid | noexec, "gid=5,mode=0620,ptmxmode=0666"),
        "/dev/shm": (nosuid | nodev, "mode=1777"),
    }


def test_device_nodes_have_the_numbers_and_modes_of_devices_txt() -> None:
    kernel = FakeKernel()
    for step in device_nodes():
        step.apply(kernel)
    assert kernel.calls_named("make_node") == [
        ("make_node", "/dev/kvm", 0o660, 10, 232),
        ("make_node", "/dev/loop-control", 0o660, 10, 237),
        ("make_node", "/dev/fuse", 0o666, 10, 229),
        ("make_node", "/dev/net/tun", 0o666, 10, 200),
    ]


def test_existing_device_nodes_and_links_are_not_created_again() -> None:
    kernel = FakeKernel(files={"/dev/kvm": "", "/dev/fd": ""})
    for step in device_nodes():
        step.apply(kernel)
    made = [call[1] for call in kernel.calls_named("make_node")]
    links = [call[2] for call in kernel.calls_named("symlink")]
    assert "/dev/kvm" not in made
    assert "/dev/fd" not in links
    assert made == ["/dev/loop-control", "/dev/fuse", "/dev/net/tun"]


def test_api_mounts_without_a_directory_in_the_root_are_unmounted() -> None:
    steps = api_mount_moves(("/run", "/dev"))
    assert [step for step in steps if isinstance(step, Move)] == [
        Move("/run", "/sysroot/run"),
        Move("/dev", "/sysroot/dev"),
    ]
    assert [step.target for step in steps if isinstance(step, Unmount)] == list(
        API_MOUNT_POINTS[2:]
    )


@pytest.mark.parametrize(("writable", "flags"), [(True, 0), (False, MS_RDONLY)])
def test_share_mount_is_read_only_unless_the_share_is_writable(writable: bool, flags: int) -> None:
    assert share_mount(Share("a", writable=writable), "/x").flags == flags


@pytest.mark.parametrize(
    ("step", "words"),
    [
        (Mount("tag", "/sysroot", "virtiofs", MS_RDONLY, "dax"), ("tag", "virtiofs", "ro", "dax")),
        (Mount("/a", "/b", "", 0), ("/a", "/b")),
        (Node("/dev/kvm", 0o660, 10, 232), ("/dev/kvm", "10:232", "0660")),
        (Symlink("/dev/fd", "/proc/self/fd"), ("/dev/fd", "/proc/self/fd")),
        (Move("/run", "/sysroot/run"), ("/run", "/sysroot/run")),
        (Unmount("/run", "no directory"), ("/run", "no directory")),
    ],
)
def test_step_descriptions_name_paths_types_and_options(
    step: Mount, words: tuple[str, ...]
) -> None:
    assert all(word in step.describe() for word in words)
