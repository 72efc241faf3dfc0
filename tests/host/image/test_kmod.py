"""Module directories: names, aliases, dependencies, damaged files, links out of the root."""

import os
from pathlib import Path

import pytest

from initrd.host.image.kmod import ModuleTree, SoftDependency, module_name
from initrd.host.system.hosterror import HostError
from tests.host.image.module_trees import write_tree

FILES = {
    "kernel/fs/fuse/fuse.ko": (),
    "kernel/fs/fuse/virtiofs.ko.xz": ("kernel/drivers/virtio.ko", "kernel/fs/fuse/fuse.ko"),
    "kernel/drivers/virtio.ko": (),
    "updates/snd-hda-intel.ko.zst": (),
    "kernel/crypto/crc32c-intel.ko": (),
    "kernel/crypto/crc32c_generic.ko": (),
}
ALIAS = """\
# Aliases extracted from modules themselves.
alias fs-virtiofs virtiofs
alias crypto-crc32c crc32c_intel
alias crypto-crc32c crc32c_generic
alias crypto-crc32c-long fuse
alias pci:v00001AF4d*sv*sd*bc*sc*i* virtio
alias gone not_in_modules_dep
"""


@pytest.fixture
def tree(tmp_path: Path) -> ModuleTree:
    builtin = ("kernel/fs/ext4/ext4.ko", "kernel/drivers/virtio/virtio-ring.ko")
    modinfo = "ext4.alias=fs-ext4\0ext4.license=GPL\0sha.alias=crypto-sha256\0"
    softdep = "softdep fuse pre: crypto-crc32c b-c post: d\nsoftdep cifs gcm\nsoftdep fuse pre: e\n"
    write_tree(
        tmp_path, FILES, builtin=builtin, alias=ALIAS, softdep=softdep, builtin_modinfo=modinfo
    )
    return ModuleTree(str(tmp_path))


@pytest.mark.parametrize(
    ("word", "modules"),
    [
        pytest.param("virtiofs", ("virtiofs",), id="by name"),
        pytest.param("snd_hda_intel", ("snd_hda_intel",), id="_ for -"),
        pytest.param("snd-hda_intel", ("snd_hda_intel",), id="- and _ mixed"),
        pytest.param("crc32c-intel", ("crc32c_intel",), id="a file with -"),
        pytest.param("ext4", (), id="built in"),
        pytest.param("virtio_ring", (), id="built in, _ for -"),
        pytest.param("fs-virtiofs", ("virtiofs",), id="alias"),
        pytest.param("fs_virtiofs", ("virtiofs",), id="alias, _ for -"),
        pytest.param("crypto-crc32c", ("crc32c_generic", "crc32c_intel"), id="alias of two"),
        pytest.param("fs-ext4", (), id="alias of a built-in module"),
        pytest.param("crypto-sha256", (), id="last alias of a built-in module"),
        pytest.param("nowhere", None, id="unknown name"),
        pytest.param("gone", None, id="alias of an unknown module"),
        pytest.param("crypto", None, id="the beginning of an alias"),
        pytest.param("crypto.crc32c", None, id="not a pattern"),
        pytest.param("virtiofs.ko", None, id="a file's name"),
        pytest.param("", None, id="empty"),
        pytest.param("(", None, id="a broken pattern"),
        pytest.param("a\nb", None, id="a line break"),
        pytest.param("\udcff", None, id="not UTF-8"),
    ],
)
def test_find_returns_the_modules_of_a_name_or_alias(
    tree: ModuleTree, word: str, modules: tuple[str, ...] | None
) -> None:
    assert tree.find(word) == modules


def test_dependencies_come_in_the_order_of_loading(tree: ModuleTree) -> None:
    assert tree.dependencies("virtiofs") == ("fuse", "virtio")
    assert tree.dependencies("fuse") == ()


def test_path_returns_the_file_of_a_module(tree: ModuleTree) -> None:
    assert tree.path("snd_hda_intel") == f"{tree.directory}/updates/snd-hda-intel.ko.zst"


def test_soft_dependencies_are_read_from_all_lines(tree: ModuleTree) -> None:
    assert tree.soft_dependencies("fuse") == SoftDependency(("crypto-crc32c", "b-c", "e"), ("d",))
    assert tree.soft_dependencies("cifs") == tree.soft_dependencies("virtiofs") == SoftDependency()


def test_similar_names_are_found_for_a_misspelt_module(tree: ModuleTree) -> None:
    assert tree.similar_names("virtio-fs") == ["virtiofs", "virtio", "virtio_ring"]


def test_a_module_directory_needs_no_file_but_modules_dep(tmp_path: Path) -> None:
    (tmp_path / "modules.dep").write_text("a.ko:\n")
    tree = ModuleTree(str(tmp_path))
    assert (tree.find("a"), tree.find("b"), tree.soft_dependencies("a")) == (
        ("a",),
        None,
        SoftDependency(),
    )


def test_an_absolute_path_in_modules_dep_stays_in_the_module_directory(tmp_path: Path) -> None:
    (tmp_path / "modules.dep").write_text("/etc/passwd.ko:\n")
    assert ModuleTree(str(tmp_path)).path("passwd") == f"{tmp_path}/etc/passwd.ko"


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("fuse.ko", "fuse"),
        ("kernel/fs/nls/nls_iso8859-1.ko.zst", "nls_iso8859_1"),
        ("/a.ko/b/virtio-rng.ko.gz", "virtio_rng"),
    ],
)
def test_a_module_is_named_after_its_file(path: str, name: str) -> None:
    assert module_name(path) == name


def test_a_missing_module_directory_is_named_in_the_error() -> None:
    with pytest.raises(HostError, match=r"/nowhere/6\.1 is no .*: No such file or directory"):
        ModuleTree("/nowhere/6.1")


def test_a_file_in_place_of_a_module_directory_is_named_in_the_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(HostError, match=r"file/modules\.dep: Not a directory"):
        ModuleTree(str(tmp_path / "file"))


@pytest.mark.parametrize(
    ("folder", "command"),
    [
        pytest.param("root/lib/modules/6.1", "depmod -b {top}/root 6.1", id="of a root"),
        pytest.param("r t/usr/lib/modules/6.1", "depmod -b '{top}/r t/usr' 6.1", id="with a blank"),
        pytest.param("modules", "depmod", id="outside a root"),
    ],
)
def test_the_error_for_a_missing_modules_dep_gives_the_depmod_command(
    tmp_path: Path, folder: str, command: str
) -> None:
    (tmp_path / folder / "kernel").mkdir(parents=True)
    with pytest.raises(HostError) as caught:
        ModuleTree(str(tmp_path / folder))
    assert "it has no modules.dep" in str(caught.value)
    assert str(caught.value).endswith("or run " + command.format(top=tmp_path))


def test_the_error_for_lib_modules_itself_lists_the_versions_in_it(tmp_path: Path) -> None:
    for version in ("6.1", "6.12"):
        write_tree(tmp_path / version, {})
    (tmp_path / "5.10").mkdir()
    with pytest.raises(HostError) as caught:
        ModuleTree(str(tmp_path))
    assert str(caught.value).endswith(f"try: {tmp_path}/6.1 or {tmp_path}/6.12")


def test_a_list_that_cannot_be_read_is_named_in_the_error(tmp_path: Path) -> None:
    write_tree(tmp_path, {})
    os.unlink(tmp_path / "modules.builtin")
    (tmp_path / "modules.builtin").mkdir()
    with pytest.raises(HostError, match=r"modules\.builtin: Is a directory"):
        ModuleTree(str(tmp_path)).find("a")


@pytest.mark.parametrize("inside", ["usr/lib/modules/6.1", "lib/modules/6.1", "elsewhere"])
@pytest.mark.parametrize("dep", ["leak.ko", "{dots}secret.ko", "up/secret.ko"])
def test_a_module_outside_the_root_is_refused(tmp_path: Path, inside: str, dep: str) -> None:
    (tmp_path / "secret.ko").write_text("\x7fELF secret")
    top = tmp_path / "root" / inside
    top.mkdir(parents=True)
    (top / "leak.ko").symlink_to("../" * 10 + str(tmp_path).lstrip("/") + "/secret.ko")
    (top / "up").symlink_to(tmp_path)
    dots = "../" * (inside.count("/") + 2)
    file = dep.format(dots=dots)
    (top / "modules.dep").write_text(f"{file}:\n")
    tree = ModuleTree(str(top))
    with pytest.raises(HostError, match="leads out of"):
        tree.path(module_name(file))


def test_an_absolute_link_is_resolved_inside_the_root(tmp_path: Path) -> None:
    real = tmp_path / "usr/lib/modules/6.0/extra"
    weak = tmp_path / "usr/lib/modules/6.1/weak-updates"
    for folder in (real, weak):
        folder.mkdir(parents=True)
    (tmp_path / "lib").symlink_to("usr/lib")
    (real / "x.ko").write_text("")
    (weak / "x.ko").symlink_to("/lib/modules/6.0/extra/x.ko")
    (weak.parent / "modules.dep").write_text("weak-updates/x.ko:\n")
    for directory in ("lib/modules/6.1", "usr/lib/modules/6.1"):
        assert ModuleTree(f"{tmp_path}/{directory}").path("x") == str(real / "x.ko")


def test_a_link_of_modules_dep_out_of_the_root_is_refused(tmp_path: Path) -> None:
    top = tmp_path / "root/lib/modules/6.1"
    top.mkdir(parents=True)
    (tmp_path / "list").write_text("a.ko:\n")
    (top / "modules.dep").symlink_to(tmp_path / "list")
    with pytest.raises(HostError, match="leads out of"):
        ModuleTree(str(top))
