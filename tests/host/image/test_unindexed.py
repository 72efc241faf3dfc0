"""Directories of modules without modules.dep: what is found in them, and what is refused."""

import os
from pathlib import Path

import pytest

from initrd.host.image import build, compress, unindexed
from initrd.host.image.buildtree import open_modules
from initrd.host.image.kmod import MAX_MODULES, SoftDependency
from initrd.host.image.modulefile import read_module
from initrd.host.image.modules import ALWAYS, OVERLAY, choose_modules, filesystem_requirement
from initrd.host.image.unindexed import UnindexedDirectory
from initrd.host.system import cached
from initrd.host.system.cached import Cache
from initrd.host.system.hosterror import HostError
from tests.host.image.module_trees import compressed, elf_module, write, write_tree

FILES = {
    "kernel/fs/fuse/fuse.ko": ("depends=",),
    "kernel/fs/fuse/virtiofs.ko": ("alias=fs-virtiofs", "depends=fuse,virtio-ring"),
    "kernel/drivers/virtio/virtio-ring.ko.xz": ("depends=",),
    "kernel/drivers/virtio/virtio_pci.ko.gz": ("depends=virtio-ring",),
    "kernel/fs/isofs/isofs.ko.xz": ("alias=fs-iso9660", "depends=", "softdep=pre: fuse"),
}


def write_files(folder: Path, files: dict[str, tuple[str, ...]]) -> str:
    for name, entries in files.items():
        write(f"{folder}/{name}", compressed(name, elf_module(*entries)))
    return str(folder)


def test_modules_and_their_dependencies_are_read_from_the_modules(tmp_path: Path) -> None:
    tree = open_modules(write_files(tmp_path, FILES))
    assert isinstance(tree, UnindexedDirectory)
    assert tree.path("virtio_ring") == f"{tmp_path}/kernel/drivers/virtio/virtio-ring.ko.xz"
    assert tree.dependencies("virtiofs") == ("fuse", "virtio_ring")
    assert tree.dependencies("virtio_pci") == ("virtio_ring",)
    assert tree.soft_dependencies("isofs") == SoftDependency(("fuse",))
    assert tree.find("fs-iso9660") == ("isofs",)
    assert tree.find("nowhere") is None


def test_modules_of_an_image_are_chosen_in_the_order_of_loading(tmp_path: Path) -> None:
    chosen = choose_modules(
        write_files(tmp_path, FILES), (*ALWAYS, filesystem_requirement("iso9660"))
    )
    names = [module.name for module in chosen]
    assert sorted(names) == ["fuse", "isofs", "virtio_pci", "virtio_ring", "virtiofs"]
    assert names.index("virtio_ring") < names.index("virtio_pci")
    assert names.index("fuse") < names.index("virtiofs")
    assert all(read_module(module.path).startswith(b"\x7fELF") for module in chosen)


def test_built_in_modules_are_those_of_the_list(tmp_path: Path) -> None:
    directory = write_files(tmp_path, FILES)
    write(f"{directory}/modules.builtin", b"kernel/fs/overlayfs/overlay.ko\n")
    assert choose_modules(directory, (OVERLAY,)) == ()


def test_transports_are_taken_to_be_built_in_where_no_list_tells(tmp_path: Path) -> None:
    files = {name: FILES[name] for name in FILES if "virtio_pci" not in name}
    directory = write_files(tmp_path, files)
    assert [module.name for module in choose_modules(directory, ALWAYS)][-1] == "virtiofs"
    write(f"{directory}/modules.builtin", b"")
    with pytest.raises(HostError, match="no module virtio_pci or virtio_mmio"):
        choose_modules(directory, ALWAYS)


def test_module_that_is_nowhere_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(HostError, match="no module overlay in ") as caught:
        choose_modules(write_files(tmp_path, FILES), (OVERLAY,))
    assert caught.value.hint.startswith("a directory with all modules of the kernel")


def test_file_in_updates_replaces_that_of_the_kernel(tmp_path: Path) -> None:
    files = {"kernel/a.ko": (), "updates/dkms/a.ko": (), "weak-updates/b.ko": ()}
    tree = UnindexedDirectory(write_files(tmp_path, files))
    assert tree.path("a") == f"{tmp_path}/updates/dkms/a.ko"


def test_modules_behind_a_link_to_a_directory_are_not_searched(tmp_path: Path) -> None:
    write_files(tmp_path / "outside", {"b.ko": ()})
    directory = write_files(tmp_path / "6.1", {"kernel/a.ko": ()})
    (tmp_path / "6.1/build").symlink_to(tmp_path / "outside")
    assert UnindexedDirectory(directory).files == ("kernel/a.ko",)


def test_module_that_is_a_link_out_of_the_root_is_not_read(tmp_path: Path) -> None:
    write_files(tmp_path / "outside", {"secret.ko": ("depends=",)})
    directory = write_files(tmp_path / "root/lib/modules/6.1", {"kernel/a.ko": ()})
    (tmp_path / "root/lib/modules/6.1/kernel/b.ko").symlink_to(tmp_path / "outside/secret.ko")
    with pytest.raises(HostError, match="it leads out of "):
        UnindexedDirectory(directory).dependencies("b")


def test_directory_without_modules_is_refused(tmp_path: Path) -> None:
    (tmp_path / "kernel").mkdir()
    with pytest.raises(HostError, match=r"is no directory of .*: it has no modules\.dep"):
        open_modules(str(tmp_path))


def test_modules_of_several_kernels_are_not_mixed(tmp_path: Path) -> None:
    write_files(tmp_path / "6.1", {"kernel/a.ko": ()})
    write(f"{tmp_path}/6.1/modules.order", b"kernel/a.ko\n")
    write_tree(tmp_path / "6.12", {"kernel/a.ko": ()})
    with pytest.raises(HostError, match="it holds those of several") as caught:
        open_modules(str(tmp_path))
    assert caught.value.hint == f"{tmp_path}/6.1 or {tmp_path}/6.12"


@pytest.mark.parametrize("versions", [("6.1",), ("5.10", "6.1")])
def test_directories_of_kernels_are_known_by_their_folder(
    versions: tuple[str, ...], tmp_path: Path
) -> None:
    for version in versions:
        write_files(tmp_path / version, FILES)
    with pytest.raises(HostError, match="it holds those of several") as caught:
        open_modules(str(tmp_path))
    assert caught.value.hint == " or ".join(f"{tmp_path}/{version}" for version in versions)


@pytest.mark.parametrize("file", ["kernel/kernel/a.ko", "updates/kernel/a.ko", "c:d/a.ko", "a.ko"])
def test_module_may_be_in_any_folder(file: str, tmp_path: Path) -> None:
    directory = write_files(tmp_path, {**FILES, file: ("depends=fuse",)})
    tree = open_modules(directory)
    assert tree.path("a") == f"{directory}/{file}"
    assert tree.dependencies("a") == ("fuse",)


@pytest.mark.parametrize("added", ["updates/fuse.ko", "kernel/drivers/virtio/virtio_mmio.ko"])
def test_image_in_the_cache_is_made_again_after_a_new_module(
    added: str, tmp_path: Path, cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cached, "_RECENT", -1e9)  # what is new is cached, too
    directory = write_files(tmp_path / "modules", FILES)
    write(f"{tmp_path}/init", elf_module())

    def size_of_image() -> int:
        image = build.open_boot_image(f"{tmp_path}/init", directory, ALWAYS, cache)
        with open(image.descriptor, "rb") as file:
            return file.seek(0, os.SEEK_END)

    size = size_of_image()
    monkeypatch.setattr(build, "build_image", lambda *_: b"made again")
    assert size_of_image() == size
    write_files(tmp_path / "modules", {added: ("depends=",)})
    assert size_of_image() == len(b"made again")


@pytest.mark.parametrize("limit", ["MAX_MODULES", "_MAX_FOLDERS"])
def test_search_for_modules_is_limited(
    limit: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unindexed, limit, 3)
    directory = write_files(tmp_path, {f"{n}/{n}.ko": () for n in range(4)})
    with pytest.raises(HostError, match="it has more than "):
        UnindexedDirectory(directory)
    assert MAX_MODULES > 3


@pytest.mark.parametrize("suffix", [".ko", ".ko.xz"])
@pytest.mark.parametrize("content", [b"", b"\x7fELF\x02\x01", b"\x7fELF\x01" + bytes(100)])
def test_damaged_module_is_named(suffix: str, content: bytes, tmp_path: Path) -> None:
    data = compress.compress(content, "xz") if suffix == ".ko.xz" else content
    write(f"{tmp_path}/kernel/a{suffix}", data)
    with pytest.raises(HostError, match=rf"the module {tmp_path}/kernel/a{suffix}"):
        UnindexedDirectory(str(tmp_path)).dependencies("a")
