"""Container bundles on a fake kernel: preparation, cleanup, and their errors."""

import errno
from typing import Any

import pytest

from initrd.guest._syscalls import MS_BIND, MS_PRIVATE
from initrd.guest.failure import BootError
from initrd.guest.log import Log
from initrd.guest.roots import bundle
from initrd.guest.roots.bundle import UMOUNT_NOFOLLOW
from tests.fake_roots_kernel import LayerKernel

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
    return [call[1] for call in kernel.calls_named("unmount")]


def test_rootfs_of_a_bundle_without_layers_becomes_a_mount_point() -> None:
    assert prepare(LayerKernel(directories=READ_ONLY)) == [
        ("chdir", "/c"),
        ("make_directory", "/c/rootfs"),
        ("mount", "/c/rootfs", "/c/rootfs", "", MS_BIND, ""),
        ("mount", "none", "/c/rootfs", "", MS_PRIVATE, ""),
        ("chdir", "/"),
    ]


def test_bundle_with_a_lower_directory_gets_an_overlay() -> None:
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


def test_overlay_options_do_not_contain_the_path_of_the_bundle() -> None:
    directories = tuple(f"/a,b:c\\d e{path.removeprefix('/c')}" for path in WRITABLE)
    calls = prepare(LayerKernel(directories=directories), "/a,b:c\\d e")
    assert ("mount", "overlay", "/a,b:c\\d e/rootfs", "overlay", 0, LAYERS) in calls


INVALID_BUNDLES = {
    "no directory": ({}, "rootfs: missing"),
    "no rootfs": ({"directories": ("/c/lower", "/c/tmp")}, "rootfs: missing"),
    "no tmp": ({"directories": ("/c/lower", "/c/rootfs")}, "tmp: missing"),
    "rootfs a file": ({"files": {"/c/rootfs": ""}}, "rootfs: that is no directory"),
    "rootfs a link": ({"links": {"/c/rootfs": "/x"}}, "rootfs: that is no directory"),
    "lower a file": (
        {"directories": ("/c/rootfs", "/c/tmp"), "files": {"/c/lower": ""}},
        "lower: that is no directory",
    ),
}


@pytest.mark.parametrize(("fields", "text"), INVALID_BUNDLES.values(), ids=INVALID_BUNDLES)
def test_invalid_bundle_is_an_error_before_any_mount(fields: dict[str, Any], text: str) -> None:
    kernel = LayerKernel(**fields)
    with pytest.raises(BootError, match=f"cannot prepare the bundle /c: {text}\ntry: a bundle has"):
        prepare(kernel)
    assert kernel.calls == []


@pytest.mark.parametrize("directories", [READ_ONLY, WRITABLE], ids=["read-only", "writable"])
def test_failed_preparation_undoes_its_mounts(directories: tuple[str, ...]) -> None:
    for number in range(len(prepare(LayerKernel(directories=directories))) - 1):
        kernel = LayerKernel(directories=directories, fail_call=number)
        with pytest.raises(BootError, match="Input/output error"):
            prepare(kernel)
        mounted = [call[2] for call in kernel.calls_named("mount") if call[4] != MS_PRIVATE]
        assert [call[1] for call in kernel.calls_named("unmount")] == mounted[::-1]


def test_error_on_a_kernel_without_overlayfs_suggests_mkvirtinitrd_overlay() -> None:
    errors: Any = {("mount", "overlay"): errno.ENODEV}
    kernel = LayerKernel(directories=WRITABLE, errors=errors)
    with pytest.raises(BootError, match=r"no overlayfs.*mkvirtinitrd --overlay"):
        prepare(kernel)
    assert kernel.calls_named("unmount") == [("unmount", "/c/tmp", UMOUNT_NOFOLLOW)]


@pytest.mark.parametrize("name", ["tmp", "rootfs"])
def test_files_hidden_by_a_mount_are_warned_about(name: str) -> None:
    kernel = LayerKernel(directories=WRITABLE, files={f"/c/{name}/file": ""})
    prepare(kernel)
    assert f"the bundle /c has files in {name}: they are hidden now" in kernel.output


def test_files_of_a_bundle_without_layers_cause_no_warning() -> None:
    kernel = LayerKernel(files={"/c/rootfs/bin/sh": ""})
    prepare(kernel)
    assert kernel.output == ""


@pytest.mark.parametrize(
    ("mounts", "unmounted"),
    [
        ((), []),
        (("/c/rootfs",), ["/c/rootfs"]),
        (("/c/tmp", "/c/rootfs"), ["/c/rootfs", "/c/tmp"]),
        (("/c/tmp", "/other", "/c"), ["/c/tmp"]),
    ],
)
def test_cleanup_unmounts_the_mounts_of_the_bundle(
    mounts: tuple[str, ...], unmounted: list[str]
) -> None:
    assert cleanup(LayerKernel(directories=WRITABLE), *mounts) == unmounted


def test_cleanup_of_a_bundle_without_layers_does_not_unmount_its_tmp_directory() -> None:
    kernel = LayerKernel(directories=(*READ_ONLY, "/c/tmp"))
    assert cleanup(kernel, "/c/tmp", "/c/rootfs") == ["/c/rootfs"]


def test_cleanup_continues_after_an_error_and_reports_the_remaining_mounts() -> None:
    errors: Any = {("unmount", "/c/rootfs"): errno.EBUSY}
    kernel = LayerKernel(directories=WRITABLE, errors=errors)
    with pytest.raises(BootError, match=r"/c/rootfs: Device or resource busy\ntry: stop what runs"):
        cleanup(kernel, "/c/tmp", "/c/rootfs")
    assert kernel.calls_named("unmount") == [("unmount", "/c/tmp", UMOUNT_NOFOLLOW)]


def test_cleanup_follows_symbolic_links_to_the_bundle() -> None:
    kernel = LayerKernel(directories=WRITABLE, links={"/c": "/real"})
    assert cleanup(kernel, "/real/rootfs") == ["/real/rootfs"]


def test_cleanup_of_a_missing_bundle_is_an_error() -> None:
    with pytest.raises(BootError, match="cannot clean up the bundle /c: No such file"):
        cleanup(LayerKernel())


@pytest.mark.parametrize("arguments", [[], ["prepare"], ["clean", "/c"], ["prepare", "/c", "/d"]])
def test_wrong_arguments_print_the_usage(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert bundle.main(arguments) == 2
    assert capsys.readouterr().err.startswith("usage: ")


@pytest.mark.parametrize("action", ["prepare", "cleanup"])
def test_bundle_that_is_missing_is_named(action: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert bundle.main([action, "/no/such/bundle"]) == 1
    error = capsys.readouterr().err
    assert error.startswith("initrd: cannot ")
    assert "/no/such/bundle" in error
