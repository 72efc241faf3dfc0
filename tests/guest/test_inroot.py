"""Paths inside a root directory that is not / yet."""

import errno

import pytest

from initrd.guest.inroot import resolve
from tests.layer_kernel import LayerKernel

LINKS = {
    "/new/bin": "usr/bin",
    "/new/usr/bin/sh": "dash",
    "/new/usr/bin/editor": "/etc/alternatives/editor",
    "/new/etc/alternatives/editor": "/usr/bin/vi",
    "/new/up": "../../../etc",
    "/new/loop": "loop",
    "/new/a": "b",
    "/new/b": "/a",
    "/new/slash": "/",
}


@pytest.mark.parametrize(
    ("path", "leads"),
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
def test_a_path_stays_inside(path: str, leads: str) -> None:
    assert resolve(path, "/new", LayerKernel(links=LINKS)) == leads  # type: ignore[arg-type]


@pytest.mark.parametrize("path", ["/loop", "/a/x"])
def test_a_loop_ends(path: str) -> None:
    with pytest.raises(OSError, match="Too many") as caught:
        resolve(path, "/new", LayerKernel(links=LINKS))  # type: ignore[arg-type]
    assert caught.value.errno == errno.ELOOP
