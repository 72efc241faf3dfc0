"""What a boot does, before it does it."""

import pytest

from initrd.guest._syscalls import MS_RDONLY
from initrd.guest.plan import MOVED, api_mount_moves, api_mounts, device_nodes, share_mount
from initrd.guest.steps import Mount, Move, Node, Symlink, Unmount
from initrd.options import Share
from tests.fake_kernel import FakeKernel


def test_every_api_mount_comes_after_its_parent() -> None:
    targets = [mount.target for mount in api_mounts()]
    for at, target in enumerate(targets):
        parent = target.rpartition("/")[0]
        assert not parent or parent in targets[:at]


def test_everything_executable_or_suid_is_kept_out_of_the_api_mounts() -> None:
    assert all(mount.flags & 2 for mount in api_mounts()), "nosuid is missing"


def test_what_devtmpfs_has_already_is_left_alone() -> None:
    kernel = FakeKernel(files={"/dev/kvm": "", "/dev/fd": ""})
    for step in device_nodes():
        step.apply(kernel)
    made = [call[1] for call in kernel.named("make_node")]
    links = [call[2] for call in kernel.named("symlink")]
    assert "/dev/kvm" not in made
    assert "/dev/fd" not in links
    assert made == ["/dev/loop-control", "/dev/fuse", "/dev/net/tun"]


def test_mounts_without_a_directory_in_the_root_are_unmounted() -> None:
    steps = api_mount_moves(("/run", "/dev"))
    assert [step for step in steps if isinstance(step, Move)] == [
        Move("/run", "/sysroot/run"),
        Move("/dev", "/sysroot/dev"),
    ]
    assert [step.target for step in steps if isinstance(step, Unmount)] == list(MOVED[2:])


@pytest.mark.parametrize(("writable", "flags"), [(True, 0), (False, MS_RDONLY)])
def test_a_share_is_as_writable_as_it_says(writable: bool, flags: int) -> None:
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
def test_steps_name_what_they_are_about(step: Mount, words: tuple[str, ...]) -> None:
    assert all(word in step.describe() for word in words)
