"""Images exchanged with other programs: GNU cpio, bsdtar, and the compressors."""

import os
import stat
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from initrd.host.image import compress, cpio, lsinitramfs

pytestmark = pytest.mark.tools

Tree = dict[bytes, tuple[int, bytes]]  # mode and content by path

ENTRIES = [
    cpio.file("init", b"\x7fELF" * 999, 0o755),
    cpio.file("usr/bin/sudo", b"setuid", 0o4755),
    cpio.file("empty", b"", 0o600),
    cpio.file(b"a b/\xff\xfe *", b"not UTF-8"),
    cpio.directory("tmp", 0o1777),
    cpio.symlink("bin", "usr/bin"),
    cpio.symlink("dangling", b"no where/\xff"),
    cpio.hard_link("1", "2"),
    cpio.file("2", b"content", 0o640),
    cpio.hard_link("3", "2"),
    cpio.device("fifo", stat.S_IFIFO | 0o644, 0, 0),
]
NODES = [
    cpio.device("console", stat.S_IFCHR | 0o600, 5, 1),
    cpio.device("vda", stat.S_IFBLK | 0o660, 254, 16),
]


def run(*command: str, stdin: bytes = b"", cwd: Path | None = None) -> bytes:
    environment = {**os.environ, "LC_ALL": "C"}
    done = subprocess.run(
        command, input=stdin, capture_output=True, cwd=cwd, env=environment, check=False
    )
    assert (done.returncode, done.stderr) == (0, b""), command
    return done.stdout


def unpack_with_cpio(image: bytes, folder: Path) -> None:
    run("cpio", "-id", "--quiet", "--preserve-modification-time", stdin=image, cwd=folder)


def unpack_with_bsdtar(image: bytes, folder: Path) -> None:
    run("bsdtar", "-xpf", "-", stdin=image, cwd=folder)


UNPACKERS = pytest.mark.parametrize("unpack", [unpack_with_cpio, unpack_with_bsdtar])


def tree_of_folder(folder: Path) -> Tree:
    """Return the mode and the content, or the link target, of every file below a directory."""
    top = os.fsencode(folder)
    found: Tree = {}
    for parent, folders, files in os.walk(top):
        for name in [*folders, *files]:
            path = os.path.join(parent, name)
            found[os.path.relpath(path, top)] = (os.lstat(path).st_mode, content_of(path))
    return found


def content_of(path: bytes) -> bytes:
    if os.path.islink(path):
        return os.readlink(path)
    return Path(os.fsdecode(path)).read_bytes() if os.path.isfile(path) else b""


def tree_of_image(image: bytes) -> Tree:
    """Return the same for an image; its writer chose which name of a file has the content."""
    entries = [entry for entry in lsinitramfs.read_entries(image) if entry.path != b"."]
    contents = {entry.link or entry.path: entry.data for entry in entries if entry.data}
    return {
        entry.path.removeprefix(b"./"): (
            entry.mode,
            contents.get(entry.link or entry.path, b""),
        )
        for entry in entries
    }


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    target = tmp_path / "folder"
    target.mkdir()
    return target


@UNPACKERS
def test_cpio_and_bsdtar_unpack_an_archive_of_this_program(
    unpack: Callable[[bytes, Path], None], folder: Path
) -> None:
    image = cpio.pack(ENTRIES)
    unpack(image, folder)
    assert tree_of_folder(folder) == tree_of_image(image)


@UNPACKERS
def test_cpio_and_bsdtar_unpack_hard_links_as_one_file(
    unpack: Callable[[bytes, Path], None], folder: Path
) -> None:
    unpack(cpio.pack(ENTRIES), folder)
    assert {os.stat(folder / name).st_nlink for name in "123"} == {3}


def test_cpio_lists_the_device_nodes_of_an_archive() -> None:
    lines = run("cpio", "-itv", "--quiet", "--numeric-uid-gid", stdin=cpio.pack(NODES)).split(b"\n")
    words = [line.split() for line in lines if line]
    assert [(line[0], line[4], line[5], line[-1]) for line in words] == [
        (b"crw-------", b"5,", b"1", b"console"),
        (b"brw-rw----", b"254,", b"16", b"vda"),
    ]


def test_bsdtar_lists_the_device_nodes_of_an_archive() -> None:
    lines = run("bsdtar", "-tvf", "-", stdin=cpio.pack(NODES)).split(b"\n")
    words = [line.split() for line in lines if line]
    assert [(line[0], line[4], line[-1]) for line in words] == [
        (b"crw-------", b"5,1", b"console"),
        (b"brw-rw----", b"254,16", b"vda"),
    ]


@pytest.mark.parametrize("form", ["newc", "crc"])
def test_an_archive_of_gnu_cpio_is_read(form: str, folder: Path) -> None:
    unpack_with_cpio(cpio.pack(ENTRIES), folder)
    names = run("find", ".", "-mindepth", "1", "-print0", cwd=folder)
    image = run("cpio", "-o0", "--quiet", "-H", form, stdin=names, cwd=folder)
    assert tree_of_image(image) == tree_of_folder(folder)


def test_an_archive_of_bsdtar_is_read(folder: Path) -> None:
    unpack_with_cpio(cpio.pack(ENTRIES), folder)
    image = run("bsdtar", "-cf", "-", "--format", "newc", ".", cwd=folder)
    assert tree_of_image(image) == tree_of_folder(folder)


COMPRESSORS = pytest.mark.parametrize(
    ("method", "command"),
    [
        pytest.param("gzip", ("gzip", "-c"), id="gzip"),
        pytest.param("xz", ("xz", "-c", "--check=crc32"), id="xz"),
        pytest.param("xz", ("xz", "-c", "-T2", "--block-size=4096"), id="xz in blocks"),
        pytest.param("zstd", ("zstd", "-qc"), id="zstd of unknown size"),
        pytest.param("zstd", ("zstd", "-qc", "-19", "-T2"), id="zstd, a high level"),
        pytest.param("lz4", ("lz4", "-qcl"), id="lz4"),
        pytest.param("lz4", ("lz4", "-qcl", "-9"), id="lz4, a high level"),
    ],
)
IMAGE = cpio.pack(ENTRIES)


@COMPRESSORS
def test_data_compressed_by_this_program_is_decompressed_by_the_usual_program(
    method: str, command: tuple[str, ...]
) -> None:
    assert run(command[0], "-dc", stdin=compress.compress(IMAGE, method)) == IMAGE


@COMPRESSORS
def test_data_compressed_by_the_usual_program_is_decompressed(
    method: str, command: tuple[str, ...]
) -> None:
    stream = run(*command, stdin=IMAGE)
    assert compress.decompress(stream + bytes(8), 1 << 30) == (IMAGE, len(stream)), method
