"""The lines of `mkvirtinitrd --list`."""

import stat
from pathlib import Path

import pytest

from initrd.host.image import cpio, lsinitramfs
from initrd.host.image.cpio import Entry
from initrd.host.image.lsinitramfs import format_entry, list_image
from initrd.host.system.hosterror import HostError


@pytest.mark.parametrize(
    ("entry", "line"),
    [
        (cpio.file("init", b"12345", 0o4755), "-rwsr-xr-x     0     0          5 init"),
        (cpio.directory("tmp", 0o1777), "drwxrwxrwt     0     0          0 tmp"),
        (cpio.symlink("bin", "usr/bin"), "lrwxrwxrwx     0     0          7 bin -> usr/bin"),
        (
            cpio.device("dev/console", stat.S_IFCHR | 0o600, 5, 1),
            "crw-------     0     0        5,1 dev/console",
        ),
        (
            cpio.device("dev/vda", stat.S_IFBLK | 0o660, 254, 16),
            "brw-rw----     0     0     254,16 dev/vda",
        ),
        (cpio.device("fifo", stat.S_IFIFO | 0o644, 0, 0), "prw-r--r--     0     0          0 fifo"),
        (
            Entry(b"b", stat.S_IFREG | 0o644, uid=1000, gid=100000, link=b"a"),
            "-rw-r--r--  1000 100000          0 b link to a",
        ),
        (
            cpio.file(b"a b\n\x1b[0m\xff\\", b""),
            r"-rw-r--r--     0     0          0 a b\n\x1b[0m\xff\\",
        ),
        (cpio.symlink("käse", b"\r"), r"lrwxrwxrwx     0     0          1 käse -> \r"),
    ],
    ids=lambda value: "" if isinstance(value, str) else ascii(value.path),
)
def test_a_line_shows_mode_owner_size_name_and_link_target(entry: Entry, line: str) -> None:
    assert format_entry(entry) == line


def test_list_image_yields_a_line_for_each_file(tmp_path: Path) -> None:
    (tmp_path / "image").write_bytes(cpio.pack([cpio.file("a", b""), cpio.file("b", b"")]))
    assert [line[-1] for line in list_image(f"{tmp_path}/image")] == ["a", "b"]


def test_a_damaged_image_is_listed_up_to_the_damage(tmp_path: Path) -> None:
    (tmp_path / "image").write_bytes(cpio.pack([cpio.file("a", b"")])[:-9])
    lines = list_image(f"{tmp_path}/image")
    assert next(lines).endswith("a")
    with pytest.raises(HostError, match=r"an initramfs image: byte 112: .*cut short"):
        next(lines)


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("nowhere", "No such file or directory"),
        (".", "Is a directory"),
        ("zero", "it is no regular file but a character device"),
    ],
)
def test_a_file_that_cannot_be_listed_is_named_in_the_error(
    tmp_path: Path, name: str, why: str
) -> None:
    (tmp_path / "zero").symlink_to("/dev/zero")
    with pytest.raises(HostError, match=f"cannot read {tmp_path}/{name}: {why}"):
        list(list_image(f"{tmp_path}/{name}"))


def test_an_image_that_does_not_fit_into_memory_raises_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def raise_memory_error(_: bytes) -> None:
        raise MemoryError

    (tmp_path / "image").write_bytes(b"x")
    monkeypatch.setattr(lsinitramfs, "read_entries", raise_memory_error)
    with pytest.raises(HostError, match="more memory than there is"):
        list(list_image(f"{tmp_path}/image"))
