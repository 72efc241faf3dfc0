"""Container bundles, on a kernel that only records; and every place where it can break."""

import errno
from typing import Any

import pytest

from initrd.guest._syscalls import MS_BIND, MS_PRIVATE
from initrd.guest.failure import BootError
from initrd.guest.log import Log
from initrd.guest.roots import bundle
from initrd.guest.roots.bundle import UMOUNT_NOFOLLOW
from tests.layer_kernel import LayerKernel

READ_ONLY = ("/c/rootfs",)
WRITABLE = ("/c/rootfs", "/c/lower", "/c/tmp")
LAYERS = "lowerdir=lower,upperdir=tmp/upper,workdir=tmp/work,redirect_dir=on,index=off,metacopy=off"


def prepare(kernel: LayerKernel, path: str = "/c") -> list[tuple[Any, ...]]:
    bundle.prepare(path, kernel, Log(kernel))  # type: ignore[arg-type]
    return kernel.calls


def cleanup(kernel: LayerKernel, *mounts: str, path: str = "/c") -> list[str]:
    rows = (f"{10 + at} 1 0:1 / {mount} rw - x x rw\n" for at, mount in enumerate(mounts))
    kernel.files["/proc/self/mountinfo"] = "".join(rows)
    bundle.cleanup(path, kernel, Log(kernel))  # type: ignore[arg-type]
    return [call[1] for call in kernel.named("unmount")]


def test_a_read_only_bundle_becomes_a_mount_point() -> None:
    assert prepare(LayerKernel(directories=READ_ONLY)) == [
        ("chdir", "/c"),
        ("make_directory", "/c/rootfs"),
        ("mount", "/c/rootfs", "/c/rootfs", "", MS_BIND, ""),
        ("mount", "none", "/c/rootfs", "", MS_PRIVATE, ""),
        ("chdir", "/"),
    ]


def test_a_writable_bundle_is_layered() -> None:
    assert prepare(LayerKernel(directories=WRITABLE)) == [
        ("chdir", "/c"),
        ("make_directory", "/c/tmp"),
        ("mount", "tmpfs", "/c/tmp", "tmpfs", 0, "mode=0755,size=10%"),
        ("mount", "none", "/c/tmp", "", MS_PRIVATE, ""),
        ("make_directory", "/c/tmp/upper"),
        ("copy_access", "/c/lower", "/c/tmp/upper"),
        ("make_directory", "/c/tmp/work"),
        ("make_directory", "/c/rootfs"),
        ("mount", "overlay", "/c/rootfs", "overlay", 0, LAYERS),
        ("mount", "none", "/c/rootfs", "", MS_PRIVATE, ""),
        ("chdir", "/"),
    ]


def test_no_path_of_the_users_gets_into_the_options() -> None:
    places = tuple(f"/a,b:c\\d e{place.removeprefix('/c')}" for place in WRITABLE)
    calls = prepare(LayerKernel(directories=places), "/a,b:c\\d e")
    assert ("mount", "overlay", "/a,b:c\\d e/rootfs", "overlay", 0, LAYERS) in calls


NO_BUNDLES = {
    "nothing": ({}, "rootfs: missing"),
    "no rootfs": ({"directories": ("/c/lower", "/c/tmp")}, "rootfs: missing"),
    "no tmp": ({"directories": ("/c/lower", "/c/rootfs")}, "tmp: missing"),
    "rootfs a file": ({"files": {"/c/rootfs": ""}}, "rootfs: that is no directory"),
    "rootfs a link": ({"links": {"/c/rootfs": "/x"}}, "rootfs: that is no directory"),
    "lower a file": (
        {"directories": ("/c/rootfs", "/c/tmp"), "files": {"/c/lower": ""}},
        "lower: that is no directory",
    ),
}


@pytest.mark.parametrize(("kernel", "text"), NO_BUNDLES.values(), ids=NO_BUNDLES)
def test_what_is_no_bundle_is_refused_before_anything_is_mounted(
    kernel: dict[str, Any], text: str
) -> None:
    fake = LayerKernel(**kernel)
    with pytest.raises(BootError, match=f"cannot prepare the bundle /c: {text}\ntry: a bundle has"):
        prepare(fake)
    assert fake.calls == []


@pytest.mark.parametrize("places", [READ_ONLY, WRITABLE], ids=["read-only", "writable"])
def test_a_failure_half_way_leaves_no_mount(places: tuple[str, ...]) -> None:
    for number in range(len(prepare(LayerKernel(directories=places))) - 1):
        kernel = LayerKernel(directories=places, fail_call=number)
        with pytest.raises(BootError, match="Input/output error"):
            prepare(kernel)
        mounted = [call[2] for call in kernel.named("mount") if call[4] != MS_PRIVATE]
        assert [call[1] for call in kernel.named("unmount")] == mounted[::-1]


def test_a_kernel_without_overlayfs_is_told_of_the_way_to_get_it() -> None:
    errors: Any = {("mount", "overlay"): errno.ENODEV}
    kernel = LayerKernel(directories=WRITABLE, errors=errors)
    with pytest.raises(BootError, match=r"no overlayfs.*mkvirtinitrd --overlay"):
        prepare(kernel)
    assert kernel.named("unmount") == [("unmount", "/c/tmp", UMOUNT_NOFOLLOW)]


@pytest.mark.parametrize("name", ["tmp", "rootfs"])
def test_what_is_hidden_is_said(name: str) -> None:
    kernel = LayerKernel(directories=WRITABLE, files={f"/c/{name}/file": ""})
    prepare(kernel)
    assert f"the bundle /c has files in {name}: they are hidden now" in kernel.said


def test_what_a_read_only_bundle_holds_is_not_hidden() -> None:
    kernel = LayerKernel(files={"/c/rootfs/bin/sh": ""})
    prepare(kernel)
    assert kernel.said == ""


@pytest.mark.parametrize(
    ("mounts", "unmounted"),
    [
        ((), []),
        (("/c/rootfs",), ["/c/rootfs"]),
        (("/c/tmp", "/c/rootfs"), ["/c/rootfs", "/c/tmp"]),
        (("/c/tmp", "/other", "/c"), ["/c/tmp"]),
    ],
)
def test_cleaning_up_unmounts_what_is_mounted(
    mounts: tuple[str, ...], unmounted: list[str]
) -> None:
    assert cleanup(LayerKernel(directories=WRITABLE), *mounts) == unmounted


def test_a_directory_tmp_of_a_read_only_bundle_is_not_ours() -> None:
    kernel = LayerKernel(directories=(*READ_ONLY, "/c/tmp"))
    assert cleanup(kernel, "/c/tmp", "/c/rootfs") == ["/c/rootfs"]


def test_cleaning_up_goes_on_after_a_failure_and_says_what_is_left() -> None:
    errors: Any = {("unmount", "/c/rootfs"): errno.EBUSY}
    kernel = LayerKernel(directories=WRITABLE, errors=errors)
    with pytest.raises(BootError, match=r"/c/rootfs: Device or resource busy\ntry: stop what runs"):
        cleanup(kernel, "/c/tmp", "/c/rootfs")
    assert kernel.named("unmount") == [("unmount", "/c/tmp", UMOUNT_NOFOLLOW)]


def test_a_bundle_is_cleaned_up_by_any_of_its_names() -> None:
    kernel = LayerKernel(directories=WRITABLE, links={"/c": "/real"})
    assert cleanup(kernel, "/real/rootfs") == ["/real/rootfs"]


def test_a_bundle_that_is_not_there_cannot_be_cleaned_up() -> None:
    with pytest.raises(BootError, match="cannot clean up the bundle /c: No such file"):
        cleanup(LayerKernel())
