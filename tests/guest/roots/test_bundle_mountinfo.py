"""The mounts of a bundle, read from /proc/self/mountinfo."""

import pytest

from initrd.guest.roots.bundle import mounts_at


def mountinfo(*mounts: tuple[int, int, str]) -> str:
    rows = (
        f"{number} {parent} 0:{number} / {path} rw - x x rw\n" for number, parent, path in mounts
    )
    return "".join(rows)


OTHER_MOUNTS = ((1, 0, "/"), (2, 1, "/proc"), (3, 1, "/b"))


@pytest.mark.parametrize(
    ("mounts", "found"),
    [
        pytest.param((), [], id="no mount"),
        pytest.param(((4, 3, "/b/rootfs"),), ["/b/rootfs"], id="one mount"),
        pytest.param(((4, 3, "/b/rootfs2"), (5, 3, "/b")), [], id="other paths"),
        pytest.param(
            ((4, 3, "/b/rootfs"), (5, 4, "/b/rootfs/proc"), (6, 5, "/b/rootfs/proc/sys")),
            ["/b/rootfs/proc/sys", "/b/rootfs/proc", "/b/rootfs"],
            id="mounts below it",
        ),
        pytest.param(
            ((4, 3, "/b/rootfs"), (5, 4, "/b/rootfs/data"), (6, 4, "/b/rootfs")),
            ["/b/rootfs"],
            id="only the topmost of two mounts at one path",
        ),
        pytest.param(((4, 3, "/b/rootfs\\040x"),), [], id="name with a space"),
    ],
)
def test_mounts_at_returns_the_topmost_mount_and_those_below_it(
    mounts: tuple[tuple[int, int, str], ...], found: list[str]
) -> None:
    assert mounts_at("/b/rootfs", mountinfo(*OTHER_MOUNTS, *mounts)) == found


@pytest.mark.parametrize(
    ("escaped", "path"),
    [
        (r"/a\040b", "/a b"),
        (r"/a\011b\012", "/a\tb\n"),
        (r"/a\134b", "/a\\b"),
        (r"/a\134040b", "/a\\040b"),
        (r"/\043a", "/#a"),
        ("/a,b:c", "/a,b:c"),
        ("/a\rb\f\u2028c", "/a\rb\f\u2028c"),
    ],
)
def test_mounts_at_decodes_the_escapes_of_mountinfo(escaped: str, path: str) -> None:
    assert mounts_at(path, mountinfo((7, 1, escaped))) == [path]


def test_mounts_at_ignores_incomplete_lines() -> None:
    assert mounts_at("/b", "\n1 2\n") == []
