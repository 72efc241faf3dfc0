"""Resolution of paths inside a root directory other than /."""

import errno

import pytest

from initrd.inroot import resolve

LINKS = {
    "/bin": "usr/bin",
    "/usr/bin/sh": "dash",
    "/usr/bin/editor": "/etc/alternatives/editor",
    "/etc/alternatives/editor": "/usr/bin/vi",
    "/up": "../../../etc",
    "/loop": "loop",
    "/a": "b",
    "/b": "/a",
    "/slash": "/",
}


def read_link(path: str) -> str:
    return LINKS.get(path, "")


@pytest.mark.parametrize(
    ("path", "resolved"),
    [
        ("/usr/bin/vi", "/usr/bin/vi"),
        ("/bin/sh", "/usr/bin/dash"),
        ("/bin/editor", "/usr/bin/vi"),
        ("//bin/./editor/", "/usr/bin/vi"),
        ("/bin/../lib", "/usr/lib"),
        ("/../../etc", "/etc"),
        ("/up/passwd", "/etc/passwd"),
        ("/slash/slash/etc", "/etc"),
        ("/no/such/file", "/no/such/file"),
        ("/", "/"),
    ],
)
def test_links_and_dot_dot_are_resolved_inside_the_root(path: str, resolved: str) -> None:
    assert resolve(path, read_link) == resolved


@pytest.mark.parametrize("path", ["/loop", "/a/x"])
def test_link_loop_raises_eloop(path: str) -> None:
    with pytest.raises(OSError, match="Too many") as caught:
        resolve(path, read_link)
    assert caught.value.errno == errno.ELOOP
