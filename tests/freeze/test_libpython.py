"""The kinds of /init that a Python permits, and their linker arguments."""

import pytest

from initrd.freeze import libpython

NO_EXTENSIONS: dict[str, list[list[str]]] = {"all_extensions": []}
EXTENSIONS = {"all_extensions": [["_socket", "/_socket.so"]]}


@pytest.mark.parametrize(
    ("analysis", "has_archive", "requested", "kind"),
    [
        pytest.param(NO_EXTENSIONS, True, "", "static", id="all C modules built in"),
        pytest.param(EXTENSIONS, True, "", "dynamic", id="C modules in files"),
        pytest.param(NO_EXTENSIONS, False, "", "shared", id="no archive of libpython"),
        pytest.param(EXTENSIONS, False, "", "shared", id="C modules in files, no archive"),
        pytest.param(NO_EXTENSIONS, True, "dynamic", "dynamic", id="dynamic requested"),
        pytest.param(NO_EXTENSIONS, True, "shared", "shared", id="shared requested"),
        pytest.param(EXTENSIONS, True, "static", "dynamic", id="static requested but impossible"),
    ],
)
def test_first_kind_that_works_is_chosen(
    analysis: dict[str, list[list[str]]], has_archive: bool, requested: str, kind: str
) -> None:
    assert libpython.kind(analysis, has_archive=has_archive, requested=requested) == kind


def test_unknown_kind_is_an_error() -> None:
    with pytest.raises(ValueError, match="statik"):
        libpython.kind(NO_EXTENSIONS, has_archive=True, requested="statik")


def test_only_a_static_init_is_linked_without_loader_options() -> None:
    assert "-static" in libpython.link("static")
    for kind in ("dynamic", "shared"):
        assert "-Wl,--no-dynamic-linker" in libpython.link(kind)
        assert "-static" not in libpython.link(kind)
