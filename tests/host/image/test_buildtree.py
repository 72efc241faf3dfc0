"""Build trees: the modules in them, their dependencies and aliases, damaged modules."""

from pathlib import Path

import pytest

from initrd.host.image.buildtree import (
    BuildTree,
    is_build_tree,
    open_modules,
)
from initrd.host.image.kmod import ModuleTree, SoftDependency
from initrd.host.image.modulefile import parse_modinfo, read_modinfo_section
from initrd.host.image.modules import ALWAYS, OVERLAY, choose_modules, filesystem_requirement
from initrd.host.system.hosterror import HostError
from tests.host.image.module_trees import elf_module, write, write_build_tree, write_tree

MODULES = {
    "fs/fuse/fuse": ("license=GPL", "depends="),
    "fs/fuse/virtiofs": ("alias=fs-virtiofs", "depends=fuse,virtio-ring"),
    "drivers/virtio/virtio-ring": ("depends=",),
    "drivers/virtio/virtio_pci": ("depends=virtio-ring",),
    "fs/ext4/ext4": ("softdep=pre: crypto-crc32c post: gone", "softdep=pre: fuse", "depends="),
    "crypto/crc32c_generic": ("alias=crypto-crc32c", "alias=crc32c"),
    "crypto/crc32c_intel": ("alias=crypto-crc32c",),
}


@pytest.fixture
def tree(tmp_path: Path) -> BuildTree:
    return BuildTree(write_build_tree(tmp_path, MODULES, builtin=("fs/xfs/xfs.ko",)))


@pytest.mark.parametrize("suffix", ["ko", "o"])
def test_modules_are_found_by_the_list_of_each_kernel_version(suffix: str, tmp_path: Path) -> None:
    tree = BuildTree(write_build_tree(tmp_path, MODULES, suffix=suffix))
    assert tree.path("virtio_ring") == f"{tmp_path}/drivers/virtio/virtio-ring.ko"
    assert tree.files == tuple(f"{path}.ko" for path in MODULES)


@pytest.mark.parametrize(
    ("word", "modules"),
    [
        ("virtio-ring", ("virtio_ring",)),
        ("xfs", ()),
        ("fs-virtiofs", ("virtiofs",)),
        ("crypto-crc32c", ("crc32c_generic", "crc32c_intel")),
        ("nowhere", None),
    ],
)
def test_word_is_found_as_a_name_or_an_alias(
    word: str, modules: tuple[str, ...] | None, tree: BuildTree
) -> None:
    assert tree.find(word) == modules


def test_dependencies_are_those_in_the_module(tree: BuildTree) -> None:
    assert tree.dependencies("virtiofs") == ("fuse", "virtio_ring")
    assert tree.dependencies("fuse") == tree.dependencies("crc32c_intel") == ()
    assert tree.soft_dependencies("ext4") == SoftDependency(("crypto-crc32c", "fuse"), ("gone",))


def test_modules_of_an_image_are_chosen_from_a_build_tree(tree: BuildTree) -> None:
    chosen = choose_modules(tree.directory, (*ALWAYS, filesystem_requirement("ext4")))
    names = [module.name for module in chosen]
    assert sorted(names) == sorted(path.rpartition("/")[2].replace("-", "_") for path in MODULES)
    assert names.index("virtio_ring") < names.index("virtiofs")
    assert names.index("crc32c_intel") < names.index("ext4")


def test_module_that_the_kernel_lacks_is_to_be_configured(tree: BuildTree) -> None:
    with pytest.raises(HostError, match="no module overlay in ") as caught:
        choose_modules(tree.directory, (OVERLAY,))
    assert caught.value.hint.startswith("switch it on in the kernel's configuration")


def test_only_modules_that_are_needed_are_read(tmp_path: Path) -> None:
    tree = BuildTree(write_build_tree(tmp_path, MODULES))
    write(f"{tmp_path}/fs/ext4/ext4.ko", b"damaged")
    assert tree.find("virtiofs") == ("virtiofs",)
    assert tree.dependencies("virtiofs") == ("fuse", "virtio_ring")
    with pytest.raises(HostError, match=r"cannot use the module .*/ext4\.ko"):
        tree.find("fs-unknown")


def test_module_that_is_listed_and_not_built_has_no_alias(tmp_path: Path) -> None:
    tree = BuildTree(write_build_tree(tmp_path, MODULES))
    (tmp_path / "crypto/crc32c_intel.ko").unlink()
    assert tree.find("crypto-crc32c") == ("crc32c_generic",)
    with pytest.raises(HostError, match="cannot read the module") as caught:
        tree.dependencies("crc32c_intel")
    assert caught.value.hint == f"make -C {tmp_path} modules"


def test_dependency_that_is_not_listed_is_named(tmp_path: Path) -> None:
    write_build_tree(tmp_path, {"a": ("depends=virtiofs",), "b": ("depends=a,gone",)})
    tree = BuildTree(str(tmp_path))
    assert tree.dependencies("b") == ("a", "gone")
    with pytest.raises(HostError, match=r"module gone of .*modules\.order does not list it"):
        tree.path("gone")


def test_modules_that_have_not_been_built_are_an_error(tmp_path: Path) -> None:
    write_build_tree(tmp_path, {})
    assert BuildTree(str(tmp_path)).files == ()
    (tmp_path / "modules.order").unlink()
    with pytest.raises(HostError, match=r"it has no modules\.order, so they have not been built"):
        BuildTree(str(tmp_path))


def test_kernel_without_modules_has_none(tmp_path: Path) -> None:
    write_build_tree(tmp_path, {})
    (tmp_path / "modules.order").unlink()
    (tmp_path / "include/config/auto.conf").write_text("CONFIG_64BIT=y\n# CONFIG_MODULES=y\n")
    assert BuildTree(str(tmp_path)).files == ()


def test_link_out_of_the_tree_is_refused(tmp_path: Path) -> None:
    (tmp_path / "secret.ko").write_bytes(elf_module("depends="))
    tree = BuildTree(write_build_tree(tmp_path / "tree", {"a": ()}))
    (tmp_path / "tree/a.ko").unlink()
    (tmp_path / "tree/a.ko").symlink_to("../secret.ko")
    with pytest.raises(HostError, match="it leads out of"):
        tree.dependencies("a")


@pytest.mark.parametrize("path", ["../a", "/a", "a/../../b"])
def test_module_out_of_the_tree_is_refused(path: str, tmp_path: Path) -> None:
    write_build_tree(tmp_path, {"a": ()})
    (tmp_path / "modules.order").write_text(f"a.o\n{path}.o\n")
    with pytest.raises(HostError, match=f"has the path {path}.o, which leads out of it"):
        BuildTree(str(tmp_path))


def test_directories_are_distinguished(tmp_path: Path) -> None:
    tree = write_build_tree(tmp_path / "tree", {})
    installed = write_tree(tmp_path / "installed", {})
    assert (is_build_tree(tree), is_build_tree(installed)) == (True, False)
    assert isinstance(open_modules(tree), BuildTree)
    assert type(open_modules(installed)) is ModuleTree


@pytest.mark.parametrize("order", ["<", ">"])
def test_entries_are_read_in_each_byte_order(order: str, tmp_path: Path) -> None:
    write(f"{tmp_path}/a.ko", elf_module("a=1", "b=2=3", "a=", "junk", order=order))
    section, _ = read_modinfo_section(f"{tmp_path}/a.ko")
    assert parse_modinfo(section) == {
        "a": ["1", ""],
        "b": ["2=3"],
    }


COMPLETE = elf_module("depends=a")


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"\x7fELF\x01" + COMPLETE[5:], id="32 bits"),
        pytest.param(COMPLETE[:40] + b"\xff" * 8 + COMPLETE[48:], id="table at 2^64"),
        pytest.param(COMPLETE[:58] + b"\0\0" + COMPLETE[60:], id="headers of no size"),
        pytest.param(COMPLETE[:60] + b"\xff\xff" + COMPLETE[62:], id="65535 sections"),
        pytest.param(COMPLETE[:62] + b"\xff\xff" + COMPLETE[64:], id="no names"),
        pytest.param(COMPLETE.replace(b".modinfo", b".another"), id="no .modinfo"),
        *(pytest.param(COMPLETE[:size], id=f"{size} bytes") for size in range(4, 250, 17)),
    ],
)
def test_damaged_module_is_an_error(data: bytes, tmp_path: Path) -> None:
    write(f"{tmp_path}/a.ko", data)
    with pytest.raises(HostError, match=r"cannot use the module .*/a\.ko: it is no module"):
        read_modinfo_section(f"{tmp_path}/a.ko")
