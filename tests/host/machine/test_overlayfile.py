"""The disk image of --overlay=FILE: made whole or not at all, never overwritten, never shared."""

import os
import stat
from pathlib import Path

import pytest

from initrd.errors import HostError
from initrd.host.machine import overlayfile
from initrd.host.machine.overlayfile import lock_overlay_files, make_overlay_file

GOOD = """#!/bin/sh
for image; do :; done
printf '\\123\\357' | dd of="$image" bs=1 seek=1080 conv=notrunc 2>/dev/null
"""
BAD = """#!/bin/sh
for image; do :; done
echo half >"$image"
echo "no  space
left" >&2
exit 3
"""


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """A path on which there is a program that makes what looks like a file system."""
    return with_mkfs(tmp_path / "good", GOOD)


def with_mkfs(folder: Path, script: str) -> dict[str, str]:
    folder.mkdir()
    (folder / "mkfs.ext4").write_text(script)
    (folder / "mkfs.ext4").chmod(0o755)
    return {"PATH": f"{folder}:/usr/bin:/bin"}


def use(path: Path, environment: dict[str, str]) -> None:
    with lock_overlay_files((str(path),), environment):
        pass


def test_without_an_image_nothing_is_needed() -> None:
    with lock_overlay_files((), {"PATH": "/nowhere"}):
        pass


@pytest.mark.parametrize("nameless", [os.O_TMPFILE, os.O_DIRECTORY], ids=["nameless", "named"])
def test_a_missing_one_is_made_and_takes_no_space(
    environment: dict[str, str], nameless: int, tmp_path: Path
) -> None:
    folder = tmp_path / "an odd, folder:"
    folder.mkdir()
    make_overlay_file(str(folder / "new"), environment, nameless)
    use(folder / "new", {"PATH": "/nowhere"})
    assert os.listdir(folder) == ["new"]
    found = (folder / "new").stat()
    assert stat.S_ISREG(found.st_mode)
    assert found.st_size == overlayfile.SIZE
    assert found.st_blocks * 512 < 1 << 20


@pytest.mark.parametrize("nameless", [os.O_TMPFILE, os.O_DIRECTORY], ids=["nameless", "named"])
def test_when_it_cannot_be_made_nothing_is_left(nameless: int, tmp_path: Path) -> None:
    environment = with_mkfs(tmp_path / "bad", BAD)
    (tmp_path / "folder").mkdir()
    with pytest.raises(HostError, match=r"mkfs.ext4 ended with status 3: no space left"):
        make_overlay_file(str(tmp_path / "folder/new"), environment, nameless)
    assert os.listdir(tmp_path / "folder") == []


def test_one_that_is_there_is_used_as_it_is(environment: dict[str, str], tmp_path: Path) -> None:
    use(tmp_path / "new", environment)
    before = (tmp_path / "new").stat()
    use(tmp_path / "new", {"PATH": "/nowhere"})
    after = (tmp_path / "new").stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_one_that_appears_while_it_is_made_is_kept(
    environment: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "new").write_text("somebody else's")
    make_overlay_file(str(tmp_path / "new"), environment)
    assert (tmp_path / "new").read_text() == "somebody else's"


def test_a_dangling_link_leads_to_the_new_one(environment: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("target")
    use(tmp_path / "link", environment)
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "target").stat().st_size == overlayfile.SIZE


def test_it_is_for_one_machine_at_a_time(environment: dict[str, str], tmp_path: Path) -> None:
    refused = pytest.raises(HostError, match=r"/new: another chrootvm is using it")
    with lock_overlay_files((str(tmp_path / "new"),), environment), refused:
        use(tmp_path / "new", environment)
    use(tmp_path / "new", environment)


def test_what_is_no_such_image_is_named_and_left(tmp_path: Path) -> None:
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
            use(tmp_path / name, {"PATH": "/nowhere"})
    assert (tmp_path / "text").read_text() == "mine"
    assert (tmp_path / "empty").stat().st_size == 0


def test_a_folder_that_is_not_there_is_named(environment: dict[str, str], tmp_path: Path) -> None:
    with pytest.raises(HostError, match=r"cannot make .*/no/new .*No such file or directory"):
        use(tmp_path / "no/new", environment)


def test_a_missing_program_is_named(tmp_path: Path) -> None:
    with pytest.raises(HostError, match=r"(?s)cannot find mkfs.ext4.*e2fsprogs"):
        overlayfile.find_mkfs({"PATH": str(tmp_path)}, folders=str(tmp_path))
