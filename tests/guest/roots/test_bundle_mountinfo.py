"""Which mounts have to go, read from the mount table."""

import pytest

from initrd.guest.roots.bundle import mounts_at


def table(*mounts: tuple[int, int, str]) -> str:
    rows = (f"{number} {parent} 0:{number} / {at} rw - x x rw\n" for number, parent, at in mounts)
    return "".join(rows)


USUAL = ((1, 0, "/"), (2, 1, "/proc"), (3, 1, "/b"))


@pytest.mark.parametrize(
    ("mounts", "found"),
    [
        pytest.param((), [], id="nothing"),
        pytest.param(((4, 3, "/b/rootfs"),), ["/b/rootfs"], id="one"),
        pytest.param(((4, 3, "/b/rootfs2"), (5, 3, "/b")), [], id="others"),
        pytest.param(
            ((4, 3, "/b/rootfs"), (5, 4, "/b/rootfs/proc"), (6, 5, "/b/rootfs/proc/sys")),
            ["/b/rootfs/proc/sys", "/b/rootfs/proc", "/b/rootfs"],
            id="with what is mounted in it",
        ),
        pytest.param(
            ((4, 3, "/b/rootfs"), (5, 4, "/b/rootfs/data"), (6, 4, "/b/rootfs")),
            ["/b/rootfs"],
            id="the topmost, not what it hides",
        ),
        pytest.param(((4, 3, "/b/rootfs\\040x"),), [], id="another name"),
    ],
)
def test_what_has_to_go(mounts: tuple[tuple[int, int, str], ...], found: list[str]) -> None:
    assert mounts_at("/b/rootfs", table(*USUAL, *mounts)) == found


@pytest.mark.parametrize(
    ("written", "name"),
    [
        (r"/a\040b", "/a b"),
        (r"/a\011b\012", "/a\tb\n"),
        (r"/a\134b", "/a\\b"),
        (r"/a\134040b", "/a\\040b"),
        (r"/\043a", "/#a"),
        ("/a,b:c", "/a,b:c"),
    ],
)
def test_names_are_read_as_the_kernel_writes_them(written: str, name: str) -> None:
    assert mounts_at(name, table((7, 1, written))) == [name]


def test_a_broken_line_is_no_mount() -> None:
    assert mounts_at("/b", "\n1 2\n") == []
