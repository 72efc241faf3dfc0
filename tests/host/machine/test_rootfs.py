"""Search for the kernel of a root directory: order of versions, places, symbolic links."""

import os
from pathlib import Path

import pytest

from initrd.host.machine.rootfs import (
    Kernel,
    find_built_kernel,
    find_kernel,
    find_module_directory,
    open_kernel,
    read_release,
    version_key,
)
from initrd.host.qemu.arch import find_arch
from initrd.host.system import rootfile
from initrd.host.system.files import OpenFile
from initrd.host.system.hosterror import HostError
from initrd.host.system.rootfile import find_in_root
from tests.host.image.module_trees import write_build_tree


def create_files(root: Path, *paths: str) -> None:
    for path in paths:
        target = root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text("")


def link(root: Path, path: str, target: str) -> None:
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / path).symlink_to(target)


@pytest.mark.parametrize(
    ("lower", "higher"),
    [
        pytest.param("6.1.0-9-amd64", "6.1.0-10-amd64", id="numbers by value"),
        pytest.param("5.10.0-30-amd64", "6.1.0-1-amd64", id="major number first"),
        pytest.param("6.12", "6.12.1", id="shorter version first"),
        pytest.param("6.12-rc7", "6.12", id="release candidate before release"),
        pytest.param(
            "6.12.0-rc1", "6.12.0-1-amd64", id="release candidate before package of the release"
        ),
        pytest.param("6.12-rc9", "6.12-rc10", id="release candidates by number"),
        pytest.param("6.12~rc7-amd64", "6.12-amd64", id="tilde before release"),
        pytest.param("6.12-amd64", "6.12-1-amd64", id="word before number"),
        pytest.param("6.1.0-1-amd64", "6.1.0-1-cloud-amd64", id="words alphabetically"),
    ],
)
def test_kernel_versions_are_ordered(lower: str, higher: str) -> None:
    assert version_key(lower) < version_key(higher)


def test_kernel_of_the_highest_version_is_chosen_from_both_places(tmp_path: Path) -> None:
    create_files(tmp_path, "boot/vmlinuz-6.1.0-9", "usr/lib/modules/6.1.0-10/vmlinuz")
    create_files(
        tmp_path, "boot/vmlinuz-6.1.0-8", "boot/System.map-9.9", "usr/lib/modules/9.9/modules.dep"
    )
    modules = tmp_path / "usr/lib/modules/6.1.0-10"
    assert find_kernel(str(tmp_path)) == Kernel("6.1.0-10", f"{modules}/vmlinuz", str(modules))


@pytest.mark.parametrize("path", ["boot/vmlinuz-6.1.0-9", "usr/lib/modules/6.1.0-9/vmlinuz"])
def test_release_of_an_image_without_a_header_is_that_of_its_path(
    tmp_path: Path, path: str
) -> None:
    create_files(tmp_path, path)  # images for ARM64 have no release in a header
    image = tmp_path / path
    image.write_bytes(bytes(4096))
    with image.open("rb") as file:
        assert read_release(OpenFile(str(image), file.fileno())) == "6.1.0-9"


def test_kernel_image_beside_its_modules_is_preferred_to_the_same_version_in_boot(
    tmp_path: Path,
) -> None:
    create_files(tmp_path, "boot/vmlinuz-6.1", "usr/lib/modules/6.1/vmlinuz")
    assert find_kernel(str(tmp_path)).image == str(tmp_path / "usr/lib/modules/6.1/vmlinuz")


def test_modules_of_a_kernel_in_boot_are_found_in_usr_lib(tmp_path: Path) -> None:
    create_files(tmp_path, "boot/vmlinuz-6.1", "usr/lib/modules/6.1/modules.dep")
    assert find_kernel(str(tmp_path)).modules == str(tmp_path / "usr/lib/modules/6.1")


def test_modules_are_found_in_a_lib_directory_that_is_no_link(tmp_path: Path) -> None:
    create_files(tmp_path, "boot/vmlinuz-6.1", "lib/modules/6.1/modules.dep")
    assert find_kernel(str(tmp_path)).modules == str(tmp_path / "lib/modules/6.1")


def test_kernel_without_modules_is_found(tmp_path: Path) -> None:
    create_files(tmp_path, "boot/vmlinuz-6.1")
    assert find_kernel(str(tmp_path)).modules == ""


def test_absolute_links_are_resolved_inside_the_root(tmp_path: Path) -> None:
    create_files(tmp_path, "usr/lib/kernels/image", "opt/modules/modules.dep")
    link(tmp_path, "boot/vmlinuz-6.1", "/lib/kernels/image")
    link(tmp_path, "lib", "usr/lib")
    link(tmp_path, "usr/lib/modules/6.1", "../../../../../../opt/modules")
    assert find_kernel(str(tmp_path)) == Kernel(
        "6.1", str(tmp_path / "usr/lib/kernels/image"), str(tmp_path / "opt/modules")
    )


def test_link_to_a_file_outside_of_the_root_is_dangling(tmp_path: Path) -> None:
    create_files(tmp_path, "outside")
    link(tmp_path, "root/boot/vmlinuz-6.1", str(tmp_path / "outside"))
    assert find_in_root(str(tmp_path / "root"), "boot/vmlinuz-6.1") == ""


@pytest.mark.parametrize("name", ["²", "6.²", "٣", "6.1-²٣x", "x" * 245, "9" * 245])
def test_digits_that_are_not_ascii_and_long_names_are_ordered(name: str, tmp_path: Path) -> None:
    create_files(tmp_path, f"boot/vmlinuz-{name}")
    assert find_kernel(str(tmp_path)).release == name
    create_files(tmp_path, f"boot/vmlinuz-{'9' * 246}")
    assert find_kernel(str(tmp_path)).release == "9" * 246


def test_named_pipe_is_not_taken_for_a_kernel(tmp_path: Path) -> None:
    create_files(tmp_path, "boot/vmlinuz-1.0")
    os.mkfifo(tmp_path / "boot/vmlinuz-9.0")
    assert find_kernel(str(tmp_path)).release == "1.0"


def test_directory_with_too_many_kernels_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rootfile, "MAX_ENTRIES", 2)
    create_files(tmp_path, *(f"boot/vmlinuz-{number}" for number in range(3)))
    with pytest.raises(HostError, match="/boot: it has more than 2 entries"):
        find_kernel(str(tmp_path))


def test_kernel_of_a_root_has_a_limit_and_one_of_the_user_has_none(tmp_path: Path) -> None:
    create_files(tmp_path, "boot/vmlinuz-1.0")
    os.truncate(tmp_path / "boot/vmlinuz-1.0", (256 << 20) + 1)
    kernel = find_kernel(str(tmp_path))
    with pytest.raises(HostError, match="as the kernel: it has more than 256 MiB"):
        open_kernel(kernel)
    os.close(open_kernel(kernel.replace(named=True)).descriptor)


def test_kernel_exchanged_by_a_link_is_not_opened(tmp_path: Path) -> None:
    create_files(tmp_path, "root/boot/vmlinuz-1.0", "secret")
    kernel = find_kernel(str(tmp_path / "root"))
    os.unlink(kernel.image)
    os.symlink(tmp_path / "secret", kernel.image)
    with pytest.raises(HostError, match="no regular file but a symbolic link"):
        open_kernel(kernel)


def test_dangling_link_and_directory_are_not_taken_for_kernels(tmp_path: Path) -> None:
    create_files(tmp_path, "boot/vmlinuz-1.0", "boot/vmlinuz-9.0/file")
    link(tmp_path, "boot/vmlinuz-8.0", "gone")
    assert find_kernel(str(tmp_path)).release == "1.0"


def test_file_in_the_place_of_boot_does_not_hinder_the_search(tmp_path: Path) -> None:
    create_files(tmp_path, "boot", "usr/lib/modules/6.1/vmlinuz")
    assert find_kernel(str(tmp_path)).release == "6.1"


def test_symbolic_link_loop_is_an_error(tmp_path: Path) -> None:
    link(tmp_path, "boot", "boot")
    with pytest.raises(HostError, match="Too many levels of symbolic links"):
        find_kernel(str(tmp_path))


def test_error_for_a_missing_kernel_names_the_places_and_an_option(tmp_path: Path) -> None:
    with pytest.raises(HostError) as error:
        find_kernel(str(tmp_path))
    assert str(tmp_path) in str(error.value)
    assert "boot/vmlinuz-VERSION" in str(error.value)
    assert "--kernel FILE" in str(error.value)


@pytest.mark.parametrize("name", ["gone", "file"])
def test_error_for_a_root_that_is_no_directory_names_it(tmp_path: Path, name: str) -> None:
    create_files(tmp_path, "file")
    with pytest.raises(HostError, match=f"cannot use .*{name} as the root directory"):
        find_kernel(str(tmp_path / name))


def test_release_without_a_module_directory_has_no_modules(tmp_path: Path) -> None:
    assert find_module_directory(str(tmp_path), "6.1") == ""


def test_paths_are_resolved_in_the_root_directory_of_the_host() -> None:
    assert find_in_root("/", "proc/../proc") == os.path.join("/", "proc")


def test_kernel_of_a_build_tree_has_the_tree_as_its_modules(tmp_path: Path) -> None:
    tree = write_build_tree(tmp_path, {}, release="6.1-rc1+")
    image = f"{tree}/arch/x86/boot/bzImage"
    assert find_built_kernel(tree, find_arch("x86_64")) == Kernel("6.1-rc1+", image, tree)


@pytest.mark.parametrize(
    ("missing", "arch", "why", "hint"),
    [
        (
            "include/config/kernel.release",
            "x86_64",
            "no include/config/kernel.release, so no kernel has been built in it",
            "make -C {} bzImage modules; or",
        ),
        (
            "include/config/kernel.release",
            "aarch64",
            "no include/config/kernel.release, so no kernel has been built in it",
            "make -C {} Image modules; or",
        ),
        (
            "arch/x86/boot/bzImage",
            "x86_64",
            "no arch/x86/boot/bzImage, so the kernel has not been built",
            "make -C {} bzImage modules",
        ),
        ("", "aarch64", "it has a kernel for x86_64 and none for aarch64", "--arch x86_64"),
        ("include/config/auto.conf", "x86_64", "a kernel of 32 bits", ""),
    ],
)
def test_directory_without_a_kernel_to_boot_is_explained(
    missing: str, arch: str, why: str, hint: str, tmp_path: Path
) -> None:
    tree = write_build_tree(tmp_path, {})
    if missing:
        (tmp_path / missing).unlink()
    (tmp_path / "include/config").mkdir(exist_ok=True)
    if missing.endswith("auto.conf"):
        (tmp_path / missing).write_text("CONFIG_MODULES=y\n")
    with pytest.raises(HostError, match=f"^cannot use {tree} as the kernel: .*{why}") as caught:
        find_built_kernel(tree, find_arch(arch))
    assert caught.value.hint.startswith(hint.format(tree))
