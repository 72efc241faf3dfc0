"""The disk image of --overlay=FILE: creation, reuse, lock, errors."""

import os
import stat
import subprocess
from pathlib import Path

import pytest

from initrd.host.machine import overlayfile
from initrd.host.machine.overlayfile import file_system_size, lock_overlay_file, make_overlay_file
from initrd.host.system.hosterror import HostError

WORKING_MKFS = """#!/bin/sh
for image; do :; done
printf '\\123\\357' | dd of="$image" bs=1 seek=1080 conv=notrunc 2>/dev/null
"""
FAILING_MKFS = """#!/bin/sh
for image; do :; done
echo half >"$image"
echo "no  space
left" >&2
exit 3
"""


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """Return an environment in whose PATH mkfs.ext4 writes only the magic number of ext4."""
    return install_mkfs(tmp_path / "good", WORKING_MKFS)


def install_mkfs(folder: Path, script: str) -> dict[str, str]:
    folder.mkdir()
    (folder / "mkfs.ext4").write_text(script)
    (folder / "mkfs.ext4").chmod(0o755)
    return {"PATH": f"{folder}:/usr/bin:/bin"}


def lock_and_release(path: Path, environment: dict[str, str]) -> None:
    os.close(lock_overlay_file(str(path), environment))


@pytest.mark.parametrize(
    "unnamed", [os.O_TMPFILE, os.O_DIRECTORY], ids=["O_TMPFILE", "no O_TMPFILE"]
)
def test_missing_overlay_file_is_created_sparse(
    environment: dict[str, str], unnamed: int, tmp_path: Path
) -> None:
    folder = tmp_path / "an odd, folder:"
    folder.mkdir()
    make_overlay_file(str(folder / "new"), environment, unnamed)
    lock_and_release(folder / "new", {"PATH": "/nowhere"})
    assert os.listdir(folder) == ["new"]
    found = (folder / "new").stat()
    assert stat.S_ISREG(found.st_mode)
    assert found.st_size == overlayfile.SIZE
    assert found.st_blocks * 512 < 1 << 20


@pytest.mark.parametrize(
    "unnamed", [os.O_TMPFILE, os.O_DIRECTORY], ids=["O_TMPFILE", "no O_TMPFILE"]
)
def test_failed_mkfs_leaves_no_file(unnamed: int, tmp_path: Path) -> None:
    environment = install_mkfs(tmp_path / "bad", FAILING_MKFS)
    (tmp_path / "folder").mkdir()
    with pytest.raises(HostError, match=r"mkfs.ext4 ended with status 3: no space left"):
        make_overlay_file(str(tmp_path / "folder/new"), environment, unnamed)
    assert os.listdir(tmp_path / "folder") == []


def test_existing_overlay_file_is_not_changed(environment: dict[str, str], tmp_path: Path) -> None:
    lock_and_release(tmp_path / "new", environment)
    before = (tmp_path / "new").stat()
    lock_and_release(tmp_path / "new", {"PATH": "/nowhere"})
    after = (tmp_path / "new").stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_file_that_appears_during_the_creation_is_not_replaced(
    environment: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "new").write_text("of another process")
    make_overlay_file(str(tmp_path / "new"), environment)
    assert (tmp_path / "new").read_text() == "of another process"


def test_overlay_file_is_created_at_the_target_of_a_dangling_link(
    environment: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "link").symlink_to("target")
    lock_and_release(tmp_path / "link", environment)
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "target").stat().st_size == overlayfile.SIZE


def test_overlay_file_is_locked_for_one_machine(
    environment: dict[str, str], tmp_path: Path
) -> None:
    descriptor = lock_overlay_file(str(tmp_path / "new"), environment)
    with pytest.raises(HostError, match=r"/new: another chrootvm is using it"):
        lock_and_release(tmp_path / "new", environment)
    os.close(descriptor)
    lock_and_release(tmp_path / "new", environment)


def test_file_without_ext4_is_refused_and_not_changed(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("mine")
    (tmp_path / "empty").touch()
    os.mkfifo(tmp_path / "pipe")
    for name, why in {
        "text": "does not hold an ext4 file system",
        "empty": "does not hold an ext4 file system",
        "pipe": "neither a file nor a disk",
        "": "it is a directory",
        "text/file": "Not a directory",
    }.items():
        with pytest.raises(HostError, match=f"cannot keep the overlay in .*{name}: .*{why}"):
            lock_and_release(tmp_path / name, {"PATH": "/nowhere"})
    assert (tmp_path / "text").read_text() == "mine"
    assert (tmp_path / "empty").stat().st_size == 0


def test_error_for_a_missing_parent_directory_names_the_path(
    environment: dict[str, str], tmp_path: Path
) -> None:
    with pytest.raises(HostError, match=r"cannot make .*/no/new .*No such file or directory"):
        lock_and_release(tmp_path / "no/new", environment)


def test_error_for_a_missing_mkfs_names_its_package(tmp_path: Path) -> None:
    with pytest.raises(HostError, match=r"(?s)cannot find mkfs.ext4.*e2fsprogs"):
        overlayfile.find_mkfs({"PATH": str(tmp_path)}, folders=str(tmp_path))


@pytest.mark.parametrize("options", [("-O", "64bit"), ("-O", "^64bit"), ("-b", "1024")])
def test_truncated_image_is_refused_and_not_changed(
    options: tuple[str, ...], tmp_path: Path
) -> None:
    image, size = tmp_path / "image", 8 << 20
    with image.open("wb") as file:
        file.truncate(size)
    mkfs = overlayfile.find_mkfs(os.environ)
    subprocess.run([mkfs, "-q", "-F", *options, image], check=True)
    lock_and_release(image, {"PATH": "/nowhere"})
    os.truncate(image, size - 1)
    why = rf"/image: it is truncated: of the {size} bytes of its file system there are {size - 1}"
    with pytest.raises(HostError, match=why):
        lock_and_release(image, {"PATH": "/nowhere"})
    assert image.stat().st_size == size - 1


def test_size_of_a_file_system_is_bounded_and_that_of_half_a_superblock_unknown() -> None:
    superblock = bytearray(b"\xff" * 1024)
    assert file_system_size(bytes(superblock)) == ((1 << 64) - 1) << 16
    assert file_system_size(bytes(superblock[:1023])) == 0


def test_image_that_is_removed_as_soon_as_it_is_made_is_an_error(tmp_path: Path) -> None:
    # mkfs.ext4 leaves a link without a target in the place of the new file.
    link = tmp_path / "folder/new"
    environment = install_mkfs(tmp_path / "odd", f"#!/bin/sh\nln -s gone {link}\n")
    link.parent.mkdir()
    with pytest.raises(HostError, match=r"/new: it was removed as soon as it was made"):
        lock_and_release(link, environment)


@pytest.mark.parametrize(
    "unnamed", [os.O_TMPFILE, os.O_DIRECTORY], ids=["O_TMPFILE", "no O_TMPFILE"]
)
def test_directory_that_is_removed_while_the_image_is_made_is_an_error(
    unnamed: int, tmp_path: Path
) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    environment = install_mkfs(tmp_path / "odd", f"#!/bin/sh\nrm -r {folder}\n")
    with pytest.raises(HostError, match=r"(?s)/new for the overlay: No such file.*try: mkdir -p"):
        make_overlay_file(str(folder / "new"), environment, unnamed)
