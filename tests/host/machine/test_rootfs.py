"""Finding the kernel of a root directory: versions, places, links that must stay inside."""

import os
from pathlib import Path

import pytest

from initrd.errors import HostError
from initrd.host.machine.rootfs import Kernel, find_kernel, module_directory, version_key
from initrd.host.system.files import resolve_in_root


def plant(root: Path, *paths: str) -> None:
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
        pytest.param("6.1.0-9-amd64", "6.1.0-10-amd64", id="numbers are numbers"),
        pytest.param("5.10.0-30-amd64", "6.1.0-1-amd64", id="major first"),
        pytest.param("6.12", "6.12.1", id="shorter first"),
        pytest.param("6.12-rc7", "6.12", id="candidate before release"),
        pytest.param("6.12.0-rc1", "6.12.0-1-amd64", id="candidate before a package of it"),
        pytest.param("6.12-rc9", "6.12-rc10", id="candidates among themselves"),
        pytest.param("6.12~rc7-amd64", "6.12-amd64", id="tilde, as Debian writes it"),
        pytest.param("6.12-amd64", "6.12-1-amd64", id="a number beats a word"),
        pytest.param("6.1.0-1-amd64", "6.1.0-1-cloud-amd64", id="words by the alphabet"),
    ],
)
def test_versions_sort_as_versions(lower: str, higher: str) -> None:
    assert version_key(lower) < version_key(higher)


def test_the_highest_version_wins_wherever_it_is(tmp_path: Path) -> None:
    plant(tmp_path, "boot/vmlinuz-6.1.0-9", "usr/lib/modules/6.1.0-10/vmlinuz")
    plant(
        tmp_path, "boot/vmlinuz-6.1.0-8", "boot/System.map-9.9", "usr/lib/modules/9.9/modules.dep"
    )
    modules = tmp_path / "usr/lib/modules/6.1.0-10"
    assert find_kernel(str(tmp_path)) == Kernel("6.1.0-10", f"{modules}/vmlinuz", str(modules))


def test_the_image_beside_its_modules_wins_over_the_same_version_in_boot(tmp_path: Path) -> None:
    plant(tmp_path, "boot/vmlinuz-6.1", "usr/lib/modules/6.1/vmlinuz")
    assert find_kernel(str(tmp_path)).image == str(tmp_path / "usr/lib/modules/6.1/vmlinuz")


def test_a_kernel_in_boot_has_its_modules_below_usr_lib(tmp_path: Path) -> None:
    plant(tmp_path, "boot/vmlinuz-6.1", "usr/lib/modules/6.1/modules.dep")
    assert find_kernel(str(tmp_path)).modules == str(tmp_path / "usr/lib/modules/6.1")


def test_a_root_with_a_real_lib_has_its_modules_there(tmp_path: Path) -> None:
    plant(tmp_path, "boot/vmlinuz-6.1", "lib/modules/6.1/modules.dep")
    assert find_kernel(str(tmp_path)).modules == str(tmp_path / "lib/modules/6.1")


def test_a_kernel_may_have_no_modules_at_all(tmp_path: Path) -> None:
    plant(tmp_path, "boot/vmlinuz-6.1")
    assert find_kernel(str(tmp_path)).modules == ""


def test_absolute_links_lead_where_they_lead_in_the_guest(tmp_path: Path) -> None:
    plant(tmp_path, "usr/lib/kernels/image", "opt/modules/modules.dep")
    link(tmp_path, "boot/vmlinuz-6.1", "/lib/kernels/image")
    link(tmp_path, "lib", "usr/lib")
    link(tmp_path, "usr/lib/modules/6.1", "../../../../../../opt/modules")
    assert find_kernel(str(tmp_path)) == Kernel(
        "6.1", str(tmp_path / "usr/lib/kernels/image"), str(tmp_path / "opt/modules")
    )


def test_a_link_that_leads_out_of_the_root_finds_nothing_outside(tmp_path: Path) -> None:
    plant(tmp_path, "outside")
    link(tmp_path, "root/boot/vmlinuz-6.1", str(tmp_path / "outside"))
    assert resolve_in_root(str(tmp_path / "root"), "boot/vmlinuz-6.1") == ""


def test_a_dangling_link_and_a_directory_are_no_kernels(tmp_path: Path) -> None:
    plant(tmp_path, "boot/vmlinuz-1.0", "boot/vmlinuz-9.0/file")
    link(tmp_path, "boot/vmlinuz-8.0", "gone")
    assert find_kernel(str(tmp_path)).release == "1.0"


def test_a_file_where_a_directory_should_be_is_no_reason_to_stop(tmp_path: Path) -> None:
    plant(tmp_path, "boot", "usr/lib/modules/6.1/vmlinuz")
    assert find_kernel(str(tmp_path)).release == "6.1"


def test_links_in_a_circle_are_an_error(tmp_path: Path) -> None:
    link(tmp_path, "boot", "boot")
    with pytest.raises(HostError, match="Too many levels of symbolic links"):
        find_kernel(str(tmp_path))


def test_no_kernel_says_where_was_looked_and_what_to_try(tmp_path: Path) -> None:
    with pytest.raises(HostError) as error:
        find_kernel(str(tmp_path))
    assert str(tmp_path) in str(error.value)
    assert "boot/vmlinuz-VERSION" in str(error.value)
    assert "--kernel FILE" in str(error.value)


@pytest.mark.parametrize("name", ["gone", "file"])
def test_a_root_that_is_no_directory_is_named(tmp_path: Path, name: str) -> None:
    plant(tmp_path, "file")
    with pytest.raises(HostError, match=f"cannot use .*{name} as the root directory"):
        find_kernel(str(tmp_path / name))


def test_modules_of_an_unknown_release_are_nowhere(tmp_path: Path) -> None:
    assert module_directory(str(tmp_path), "6.1") == ""


def test_the_root_may_be_the_hosts_own() -> None:
    assert resolve_in_root("/", "proc/../proc") == os.path.join("/", "proc")
