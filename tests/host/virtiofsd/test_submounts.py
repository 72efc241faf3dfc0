"""Mounts below a directory, as /proc/self/mountinfo has them."""

from pathlib import Path

import pytest

from initrd.host.virtiofsd.submounts import explain_submounts, find_submounts

MOUNTINFO = r"""
22 1 254:0 / / rw,relatime - ext4 /dev/vda rw
23 22 0:5 / /proc rw shared:1 - proc proc rw
24 22 0:6 / /srv/root rw - tmpfs t rw
25 24 0:7 / /srv/root/dev rw - devtmpfs d rw
26 24 0:8 / /srv/root/a\040b rw - tmpfs t rw
27 24 0:8 / /srv/root/a\134n\012 rw - tmpfs t rw
28 25 0:9 / /srv/root/dev rw - tmpfs covered rw
29 22 0:9 / /srv/root2 rw - tmpfs t rw
""".lstrip()


@pytest.mark.parametrize(
    ("directory", "expected"),
    [
        ("/srv/root", ("/srv/root/a b", "/srv/root/a\\n\n", "/srv/root/dev")),
        ("/srv/root2", ()),
        ("/proc", ()),
    ],
)
def test_mounts_below_a_directory_are_found(
    tmp_path: Path, directory: str, expected: tuple[str, ...]
) -> None:
    path = tmp_path / "mountinfo"
    path.write_text(MOUNTINFO)
    assert find_submounts(directory, str(path)) == expected


# The kernel escapes spaces, tabs, line feeds and backslashes only, in mount points and in sources.
@pytest.mark.parametrize("char", ["\r", "\f", "\x85", "\u2028"])
def test_other_line_breaks_in_names_begin_no_line(tmp_path: Path, char: str) -> None:
    line = f"25 24 0:7 / /srv/root/a{char}b rw - fuse.x c{char}d rw\n"
    (tmp_path / "mountinfo").write_text(MOUNTINFO + line, newline="")
    found = find_submounts("/srv/root", str(tmp_path / "mountinfo"))
    assert len(found) == 4
    assert f"/srv/root/a{char}b" in found


def test_all_mounts_are_below_the_root_directory(tmp_path: Path) -> None:
    (tmp_path / "mountinfo").write_text(MOUNTINFO)
    assert len(find_submounts("/", str(tmp_path / "mountinfo"))) == 6


def test_no_mounts_are_found_without_the_file() -> None:
    assert find_submounts("/", "/nowhere") == ()


def test_explanation_names_three_mounts() -> None:
    assert explain_submounts("/r", ()) == ""
    assert " files of /r/a look " in explain_submounts("/r", ["/r/a"])
    assert " /r/a, /r/b, /r/c and 2 more look " in explain_submounts(
        "/r", [f"/r/{c}" for c in "abcde"]
    )
