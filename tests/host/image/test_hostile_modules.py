"""Module directories and build trees of a hostile root: special files, bombs, multiplication."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from initrd.host.image import build, compress, kmod, modules, unindexed
from initrd.host.image.buildtree import BuildTree, has_option, is_build_tree, read_tree_release
from initrd.host.image.kmod import ModuleTree
from initrd.host.image.modules import (
    Module,
    choose_modules,
    load_order,
    module_requirement,
)
from initrd.host.system.hosterror import HostError
from initrd.host.system.rootfile import MODULE_LIST
from tests.host import hostile_roots
from tests.host.image.module_trees import elf_module, write, write_build_tree, write_tree

FILES = {"a.ko": (), "b.ko": ("a.ko",)}
LISTS = ("dep", "softdep", "alias", "builtin", "builtin.modinfo")


@pytest.fixture(autouse=True)
def alarm() -> Iterator[None]:
    """End a test that blocks: the signal's default action ends the test process."""
    signal.alarm(120)
    yield
    signal.alarm(0)


def choose(directory: str, *words: str) -> list[str]:
    chosen = choose_modules(directory, map(module_requirement, words))
    return [module.name for module in chosen]


@pytest.mark.parametrize("kind", hostile_roots.SPECIAL)
@pytest.mark.parametrize("name", LISTS)
def test_special_file_in_the_place_of_a_list_is_refused(
    name: str, kind: str, tmp_path: Path
) -> None:
    directory = write_tree(tmp_path, FILES, alias="alias x b\n", softdep="softdep b pre: x\n")
    hostile_roots.replace(tmp_path / f"modules.{name}", kind)
    with pytest.raises(HostError, match=rf"modules\.{name}: it is no regular file but {kind}"):
        choose(directory, "b")


@pytest.mark.parametrize("kind", hostile_roots.SPECIAL)
def test_special_file_in_the_place_of_a_module_is_refused(kind: str, tmp_path: Path) -> None:
    directory = write_tree(tmp_path, FILES)
    hostile_roots.replace(tmp_path / "b.ko", kind)
    chosen = choose_modules(directory, [module_requirement("b")])
    with pytest.raises(HostError, match=rf"/b\.ko: it is no regular file but {kind}"):
        build.build_image(b"", chosen)


def test_module_exchanged_by_a_link_out_of_the_root_is_not_read(tmp_path: Path) -> None:
    directory = write_tree(tmp_path / "root/lib/modules/6.1", {"kernel/b.ko": ()})
    write(f"{tmp_path}/outside/b.ko", b"\x7fELF secret")
    chosen = choose_modules(directory, [module_requirement("b")])
    os.rename(f"{directory}/kernel", f"{directory}/old")
    os.symlink(f"{tmp_path}/outside", f"{directory}/kernel")
    with pytest.raises(HostError, match="has got a symbolic link"):
        build.build_image(b"", chosen)


@pytest.mark.parametrize("name", LISTS)
def test_list_above_the_limit_is_refused(name: str, tmp_path: Path) -> None:
    directory = write_tree(tmp_path, FILES, softdep="softdep b pre: x\n")
    (tmp_path / f"modules.{name}").touch()
    os.truncate(tmp_path / f"modules.{name}", MODULE_LIST.size + 1)
    with pytest.raises(HostError, match=rf"modules\.{name}: it has more than 16 MiB"):
        choose(directory, "b")


@pytest.mark.parametrize(
    "line", ["a\0b.ko:\n", "\0/b.ko:\n", "b.ko: a\0.ko\n", "x/" * 4000 + "b.ko:\n"]
)
def test_path_that_cannot_be_one_is_an_error(line: str, tmp_path: Path) -> None:
    directory = write_tree(tmp_path, {})
    (tmp_path / "modules.dep").write_text(line)
    name = kmod.module_name(line.partition(":")[0])
    with pytest.raises(HostError, match=r"NUL byte|File name too long|no line for it"):
        choose(directory, name)


def test_module_that_unpacks_to_gigabytes_is_refused_with_little_memory(tmp_path: Path) -> None:
    path = tmp_path / "b.ko.gz"
    path.write_bytes(hostile_roots.gzip_bomb(6 << 30))
    program = """
        import sys
        from initrd.host.system.hosterror import HostError
        from initrd.host.image.modulefile import read_module
        try:
            read_module(sys.argv[1])
        except HostError as error:
            print(error)
    """
    output = hostile_roots.run_with_memory(1 << 30, program, str(path))
    why = "it has more than 256 MiB when decompressed, the limit"
    assert output == f"cannot decompress the module {path}: {why}\n"


def test_modules_that_are_too_large_together_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(build, "_MAX_MODULES_SIZE", 5 << 20)
    path, read = tmp_path / "a.ko", []
    path.write_bytes(b"\x7fELF" + bytes(1 << 20))
    read_module = build.read_module
    monkeypatch.setattr(build, "read_module", lambda name: read.append(name) or read_module(name))
    with pytest.raises(HostError, match="cannot make the image: the modules have more than 5 MiB"):
        build.build_image(b"", [Module(f"a{number}", str(path)) for number in range(1000)])
    assert len(read) == 5


def test_soft_dependencies_that_multiply_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each of 1000 words is an alias of 1000 modules."""
    names = [f"m{number}" for number in range(1000)]
    directory = write_tree(
        tmp_path,
        {"a.ko": ()},
        alias="".join(f"alias x {name}\n" for name in names),
        softdep="softdep a pre: " + "x " * 1000 + "\n",
    )
    with open(f"{directory}/modules.dep", "a") as file:
        file.writelines(f"{name}.ko:\n" for name in names)
    found: list[str] = []
    find = ModuleTree.find
    monkeypatch.setattr(ModuleTree, "find", lambda *args: found.append(args[1]) or find(*args))
    with pytest.raises(HostError, match="too many dependencies and soft dependencies"):
        choose(directory, "a")
    assert len(found) == modules._MAX_EDGES // len(names) + 2


def test_soft_dependencies_that_form_many_circles_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each soft dependency needs a search through the whole chain of dependencies."""
    monkeypatch.setattr(modules, "_MAX_STEPS", 10_000)
    count = 200
    files = {f"m{n}.ko": ((f"m{n + 1}.ko",) if n < count else ()) for n in range(count + 1)}
    softdep = "".join(f"softdep m{count} pre: m0\nsoftdep m{n} pre: m1\n" for n in range(count))
    directory = write_tree(tmp_path, files, softdep=softdep)
    with pytest.raises(HostError, match="too many dependencies and soft dependencies"):
        choose(directory, "m0")


def test_order_of_many_modules_takes_each_dependency_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    count = 3000
    lines = [f"m{n}.ko: m{n + 1}.ko\n" for n in range(count)]
    softdep = "".join(f"softdep m{n} post: m{n // 2}\n" for n in range(0, count, 50))
    directory = write_tree(tmp_path, {}, softdep=softdep)
    (tmp_path / "modules.dep").write_text("".join((*lines, f"m{count}.ko:\n")))
    asked: list[str] = []
    dependencies = ModuleTree.dependencies
    monkeypatch.setattr(
        ModuleTree, "dependencies", lambda *args: asked.append(args[1]) or dependencies(*args)
    )
    assert len(load_order(ModuleTree(directory), ["m0"])) == count + 1
    assert len(asked) == len(set(asked)) == count + 1


def test_lists_are_read_once_however_many_aliases_are_looked_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    softdep = "".join(f"softdep b pre: x{number}\n" for number in range(5000))
    directory = write_tree(tmp_path, FILES, alias="alias x1 a\n", softdep=softdep)
    read: list[str] = []
    read_file = kmod.read_file
    monkeypatch.setattr(
        kmod, "read_file", lambda path, limit: read.append(path) or read_file(path, limit)
    )
    assert choose(directory, "b") == ["a", "b"]
    assert len(read) == len(LISTS)


@pytest.mark.parametrize("name", ["a", "missing"])
def test_alias_of_many_lines_is_looked_up_as_fast_as_others(name: str, tmp_path: Path) -> None:
    """The time must not be the product of the lines of one list and the words of the other."""
    alias = f"alias x {name}\n" * 500_000
    directory = write_tree(tmp_path, FILES, alias=alias, softdep="softdep b pre:" + " x" * 100_000)
    assert choose(directory, "b") == ["a", "b"]


def test_aliases_of_the_kernel_without_an_end_are_read_in_linear_time(tmp_path: Path) -> None:
    directory = write_tree(tmp_path, FILES)
    (tmp_path / "modules.builtin.modinfo").write_text(".alias=" * 2_000_000)
    with pytest.raises(HostError, match="no module c in"):
        choose(directory, "c")


def test_line_with_too_many_dependencies_is_refused(tmp_path: Path) -> None:
    directory = write_tree(tmp_path, {})
    (tmp_path / "modules.dep").write_text("a.ko:" + " a.ko" * (kmod.MAX_MODULES + 1))
    with pytest.raises(HostError, match=r"module a of .*: it has more than 20000 dependencies"):
        choose(directory, "a")


def test_message_for_a_circle_of_many_modules_is_short(tmp_path: Path) -> None:
    directory = write_tree(tmp_path, {f"m{n}.ko": (f"m{(n + 1) % 999}.ko",) for n in range(999)})
    with pytest.raises(HostError) as caught:
        choose(directory, "m0")
    assert len(caught.value.why) < 500
    assert caught.value.why.endswith(" needs …")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        pytest.param("dep", "a.ko:" + " a" * 8_300_000, id="dependencies"),
        pytest.param("dep", "".join(f"{n:x}:\n" for n in range(2_200_000)), id="names"),
        pytest.param("alias", "alias a a\n" * 1_600_000, id="aliases"),
        pytest.param("builtin", "a " * 8_300_000, id="builtin"),
        pytest.param("builtin.modinfo", "\0a.alias=b" * 1_500_000, id="builtin aliases"),
        pytest.param("softdep", "softdep a pre: a\n" * 980_000, id="softdep"),
    ],
)
def test_list_at_the_limit_takes_limited_memory(name: str, text: str, tmp_path: Path) -> None:
    directory = write_tree(tmp_path, {"a.ko": ()})
    path = tmp_path / f"modules.{name}"
    path.write_text(text)
    assert path.stat().st_size <= MODULE_LIST.size
    program = """
        import sys
        from initrd.host.system.hosterror import HostError
        from initrd.host.image.modules import choose_modules, module_requirement
        try:
            choose_modules(sys.argv[1], map(module_requirement, ("a", "virtio")))
        except HostError as error:
            print(error)
    """
    assert hostile_roots.run_with_memory(3 << 28, program, directory)


def test_large_compressed_file_with_many_names_is_not_read_for_each(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(build, "_MAX_MODULES_SIZE", 5 << 20)
    path, read = tmp_path / "a.ko.gz", []
    path.write_bytes(compress.compress(b"\x7fELF", "gzip"))
    os.truncate(path, 1 << 20)
    read_module = build.read_module
    monkeypatch.setattr(build, "read_module", lambda name: read.append(name) or read_module(name))
    with pytest.raises(HostError, match="cannot make the image: the modules have more than 5 MiB"):
        build.build_image(b"", [Module(f"a{number}", str(path)) for number in range(1000)])
    assert len(read) == 6


def test_build_tree_reads_no_file_outside_it(tmp_path: Path) -> None:
    tree = write_build_tree(tmp_path / "tree", {})
    outside = write_build_tree(tmp_path / "outside", {}, release="secret")
    for name in ("include/config/kernel.release", "include/config/auto.conf"):
        os.unlink(f"{tree}/{name}")
        os.symlink(f"{outside}/{name}", f"{tree}/{name}")
    assert not is_build_tree(tree)
    with pytest.raises(HostError, match="symbolic link"):
        read_tree_release(tree)
    with pytest.raises(HostError, match="symbolic link"):
        has_option(tree, "64BIT")


@pytest.mark.parametrize("kind", hostile_roots.SPECIAL)
@pytest.mark.parametrize("name", ["modules.order", "a.ko", "include/config/auto.conf"])
def test_special_file_in_a_build_tree_is_refused(name: str, kind: str, tmp_path: Path) -> None:
    tree = write_build_tree(tmp_path, {"a": ("alias=x",)})
    hostile_roots.replace(tmp_path / name, kind)
    with pytest.raises(HostError, match=f"{name}: it is no regular file but {kind}"):
        has_option(tree, "MODULES")
        choose(tree, "x")


@pytest.mark.parametrize("limit", ["_MAX_READ", "_MAX_MODINFO"])
def test_sections_of_all_modules_together_are_limited(
    limit: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One module by many names: its bytes would be read again for each."""
    monkeypatch.setattr(unindexed, limit, 20_000)
    tree = write_build_tree(tmp_path, {"a": ("alias=x" + "y" * 1000,)})
    names = [f"n{number}" for number in range(1000)]
    for name in names:
        os.symlink("a.ko", f"{tree}/{name}.ko")
    (tmp_path / "modules.order").write_text("".join(f"{name}.o\n" for name in names))
    read: list[str] = []
    section = unindexed.read_modinfo_section
    monkeypatch.setattr(
        unindexed, "read_modinfo_section", lambda *args: read.append(args[0]) or section(*args)
    )
    with pytest.raises(HostError, match="their sections have more bytes"):
        choose(tree, "unknown-alias")
    assert len(read) <= 20


def test_module_list_of_a_build_tree_is_limited(tmp_path: Path) -> None:
    tree = write_build_tree(tmp_path, {})
    (tmp_path / "modules.order").write_text("a.o\n" * (kmod.MAX_MODULES + 1))
    with pytest.raises(HostError, match=r"modules\.order: it has more than 20000 modules"):
        BuildTree(tree)


def test_section_of_a_huge_module_file_is_refused(tmp_path: Path) -> None:
    data = bytearray(elf_module("depends="))
    data[-64 + 32 : -64 + 40] = (1 << 30).to_bytes(8, "little")  # the size of .modinfo
    path = tmp_path / "a.ko"
    path.write_bytes(data)
    os.truncate(path, 2 << 30)
    with pytest.raises(HostError, match="it is no module of a 64-bit kernel"):
        unindexed.read_modinfo_section(str(path))


def test_bomb_is_decompressed_up_to_the_limit_only(monkeypatch: pytest.MonkeyPatch) -> None:
    counted = hostile_roots.CountedDecompressors(monkeypatch)
    bomb = hostile_roots.gzip_bomb(1 << 30)
    with pytest.raises(compress.CompressError, match="more than 1 MiB"):
        compress.decompress(bomb, 1 << 20)
    assert sum(counted.produced) == (1 << 20) + 1


def test_module_that_is_cut_short_anywhere_is_refused(tmp_path: Path) -> None:
    data, path = elf_module("depends="), tmp_path / "a.ko"
    for size in range(len(data)):
        path.write_bytes(data[:size])
        with pytest.raises(HostError, match="it is truncated"):
            unindexed.read_modinfo_section(str(path))
