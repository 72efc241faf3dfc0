"""Images with /init and modules, and the inputs that are refused."""

import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from initrd.command import Command, load
from initrd.host.image import lsinitramfs, modules
from initrd.host.image.build import (
    append_command_file,
    build_image,
    encode_command,
    open_boot_image,
    read_init,
)
from initrd.host.image.compress import METHODS
from initrd.host.image.modulefile import read_module
from initrd.host.image.modules import Module, choose_modules
from initrd.host.system.cached import Cache
from initrd.host.system.files import OpenFile
from initrd.host.system.hosterror import HostError
from initrd.options import COMMAND_FILE
from tests.host.image.module_trees import REQUIRED, content, write_tree
from tests.test_elf import head

INIT = b"\x7fELF" + bytes(999)


def build_from(folder: str, *names: str, compression: str = "none") -> bytes:
    requirements = [*modules.ALWAYS, *(modules.module_requirement(name) for name in names)]
    return build_image(INIT, choose_modules(folder, requirements), compression)


@pytest.mark.parametrize(
    ("init", "module", "why"),
    [
        (head(62), head(183), "it is for aarch64, and the program /init for x86_64"),
        (head(183), head(62), "it is for x86_64, and the program /init for aarch64"),
        (head(62), head(3, bits=32), "it is for i386, and the program /init for x86_64"),
        (head(62), head(62), ""),
        (head(3, bits=32), head(62), ""),
    ],
)
def test_modules_are_for_the_architecture_of_init(
    tmp_path: Path, init: bytes, module: bytes, why: str
) -> None:
    (tmp_path / "a.ko").write_bytes(module)
    chosen = [Module("a", f"{tmp_path}/a.ko")]
    if not why:
        assert build_image(init, chosen)
        return
    with pytest.raises(HostError) as caught:
        build_image(init, chosen)
    assert (caught.value.what, caught.value.why) == ("cannot put the module a into the image", why)


def test_an_image_holds_init_and_the_required_modules_only(tmp_path: Path) -> None:
    files = {
        "virtiofs.ko": ("virtio-ring.ko.zst",),
        "virtio-ring.ko.zst": (),
        "virtio_mmio.ko.gz": ("virtio-ring.ko.zst",),
        "virtio_net.ko.xz": (),
        "not_asked_for.ko": (),
    }
    entries = list(lsinitramfs.read_entries(build_from(write_tree(tmp_path, files), "virtio-net")))
    assert [(oct(entry.mode), entry.path) for entry in entries] == [
        ("0o100755", b"init"),
        ("0o40755", b"usr"),
        ("0o40755", b"usr/lib"),
        ("0o40755", b"usr/lib/modules"),
        ("0o100644", b"usr/lib/modules/000-virtio_ring.ko"),
        ("0o100644", b"usr/lib/modules/001-virtio_net.ko"),
        ("0o100644", b"usr/lib/modules/002-virtio_mmio.ko"),
        ("0o100644", b"usr/lib/modules/003-virtiofs.ko"),
    ]
    assert [entry.data for entry in entries[4:]] == [
        *(content("virtio-ring.ko"), content("virtio_net.ko")),
        *(content("virtio_mmio.ko"), content("virtiofs.ko")),
    ]
    assert entries[0].data == INIT


def test_an_image_for_a_kernel_with_built_in_drivers_holds_no_modules(tmp_path: Path) -> None:
    folder = write_tree(tmp_path, {}, builtin=("kernel/virtiofs.ko", "kernel/virtio-mmio.ko"))
    assert [entry.path for entry in lsinitramfs.read_entries(build_from(folder))] == [b"init"]


@pytest.mark.parametrize(
    ("files", "message"),
    [
        pytest.param({"virtio_pci.ko": ()}, "no module virtiofs in", id="no virtiofs"),
        pytest.param(
            {"virtiofs.ko": ()},
            "no module virtio_pci or virtio_mmio or virtio_ccw in .*any virtio device",
            id="no transport",
        ),
    ],
)
def test_a_kernel_without_virtiofs_or_a_transport_is_refused(
    tmp_path: Path, files: dict[str, tuple[str, ...]], message: str
) -> None:
    with pytest.raises(HostError, match=message):
        build_from(write_tree(tmp_path, files))


@pytest.mark.parametrize("method", METHODS)
def test_images_of_the_same_inputs_are_identical(tmp_path: Path, method: str) -> None:
    files = {**REQUIRED, **{f"m{n}.ko": () for n in range(9)}}
    names = list(files)
    images = set()
    for seed in range(5):
        random.Random(seed).shuffle(names)
        folder = write_tree(tmp_path / str(seed), {name: files[name] for name in names})
        images.add(build_from(folder, "m3", "m1", compression=method))
    assert len(images) == 1


def test_an_image_is_at_most_4_kb_larger_than_its_files(tmp_path: Path) -> None:
    names = [f"module_with_a_long_name_{n}" for n in range(15)]
    files = {f"{name}.ko": () for name in names}
    image = build_from(write_tree(tmp_path, {**files, **REQUIRED}), *names)
    content_size = len(INIT) + sum(len(content(file)) for file in [*files, *REQUIRED])
    assert content_size < len(image) <= content_size + 4096


def test_the_names_of_1001_modules_sort_in_the_order_of_loading(tmp_path: Path) -> None:
    (tmp_path / "m.ko").write_bytes(b"\x7fELF")
    modules = [Module(f"m{n}", f"{tmp_path}/m.ko") for n in range(1001)]
    names = [entry.path for entry in lsinitramfs.read_entries(build_image(INIT, modules))]
    assert names[4:] == sorted(names[4:])
    assert names[4].endswith(b"/0000-m0.ko")
    assert names[-1].endswith(b"/1000-m1000.ko")


def test_a_module_file_that_is_no_elf_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "m.ko").write_bytes(b"-----BEGIN OPENSSH PRIVATE KEY-----")
    with pytest.raises(HostError, match="it is no ELF file"):
        build_image(INIT, [Module("m", f"{tmp_path}/m.ko")])


def test_a_module_of_modules_dep_without_a_file_is_named_in_the_error(tmp_path: Path) -> None:
    folder = write_tree(tmp_path, {**REQUIRED, "a.ko": ("sub/b.ko.xz",), "sub/b.ko.xz": ()})
    (tmp_path / "sub/b.ko.xz").unlink()
    with pytest.raises(HostError, match=f"{folder}/sub/b.ko.xz: No such file or directory"):
        build_from(folder, "a")


@pytest.mark.parametrize("suffix", ["gz", "xz", "zst"])
def test_a_damaged_module_is_named_in_the_error(tmp_path: Path, suffix: str) -> None:
    write_tree(tmp_path, {f"a.ko.{suffix}": ()})
    path = tmp_path / f"a.ko.{suffix}"
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(HostError, match=rf"decompress the module .*/a\.ko\.{suffix}: .*cut short"):
        read_module(str(path))


def test_read_init_returns_an_elf_program(tmp_path: Path) -> None:
    (tmp_path / "init").write_bytes(INIT)
    assert read_init(f"{tmp_path}/init") == INIT


@pytest.mark.parametrize(
    ("name", "why"),
    [
        pytest.param("nowhere", "No such file or directory", id="missing"),
        pytest.param(".", "Is a directory", id="a directory"),
        pytest.param("script", "it is no ELF program", id="a script"),
        pytest.param("empty", "it is no ELF program", id="empty"),
        pytest.param("fifo", "it is no regular file but a named pipe", id="a named pipe"),
        pytest.param("nul", "it is no regular file but a character device", id="a device"),
    ],
)
def test_read_init_refuses_files_that_are_no_elf_program(
    tmp_path: Path, name: str, why: str
) -> None:
    (tmp_path / "script").write_bytes(b"#!/bin/sh\n")
    (tmp_path / "empty").write_bytes(b"")
    (tmp_path / "nul").symlink_to("/dev/null")
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(HostError, match=f"cannot use {tmp_path}/{name} as .*: {why}"):
        read_init(f"{tmp_path}/{name}")


@pytest.fixture
def image(tmp_path: Path, cache: Cache) -> Iterator[OpenFile]:
    (tmp_path / "init").write_bytes(INIT)
    image = open_boot_image(f"{tmp_path}/init", "", (), cache)
    yield image
    os.close(image.descriptor)


def read_all(image: OpenFile) -> bytes:
    return os.pread(image.descriptor, os.fstat(image.descriptor).st_size, 0)


@pytest.mark.parametrize("size", range(4))
def test_command_file_is_an_archive_behind_a_copy_of_the_image(image: OpenFile, size: int) -> None:
    before = read_all(image)
    copy = append_command_file(image, b"x" * size)
    after = read_all(copy)
    os.close(copy.descriptor)
    assert read_all(image) == before
    assert after.startswith(before)
    entries = {entry.path: entry for entry in lsinitramfs.read_entries(after)}
    command_file = entries[COMMAND_FILE.lstrip("/").encode()]
    assert (command_file.data, oct(command_file.mode)) == (b"x" * size, "0o100600")
    assert entries[b"init"].data == INIT


def test_command_file_may_be_appended_to_one_image_several_times(image: OpenFile) -> None:
    copies = [append_command_file(image, content) for content in (b"a", b"b")]
    contents = [read_all(copy) for copy in copies]
    for copy in copies:
        os.close(copy.descriptor)
    assert contents[0] != contents[1]
    assert len(contents[0]) == len(contents[1])


def test_truncated_image_is_an_error_and_leaves_no_descriptor_open(
    image: OpenFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = os.listdir("/proc/self/fd")
    monkeypatch.setattr(os, "sendfile", lambda *_: 0)  # its size was read before
    with pytest.raises(OSError, match="truncated"):
        append_command_file(image, b"")
    assert os.listdir("/proc/self/fd") == before


def test_command_that_cannot_be_written_is_a_host_error() -> None:
    with pytest.raises(HostError, match="cannot run the command: a NUL byte"):
        encode_command(Command((b"a\0b",)))
    assert load(encode_command(Command((b"a", b"b")))).argv == (b"a", b"b")
