"""Which kind of /init a Python allows."""

import pytest

from initrd.freeze import libpython

NONE: dict[str, list[list[str]]] = {"all_extensions": []}
SOME = {"all_extensions": [["_socket", "/_socket.so"]]}


@pytest.mark.parametrize(
    ("analysis", "has_archive", "wanted", "kind"),
    [
        pytest.param(NONE, True, "", "static", id="all built in"),
        pytest.param(SOME, True, "", "dynamic", id="C modules in files"),
        pytest.param(NONE, False, "", "shared", id="no archive"),
        pytest.param(SOME, False, "", "shared", id="neither"),
        pytest.param(NONE, True, "dynamic", "dynamic", id="dynamic is asked for"),
        pytest.param(NONE, True, "shared", "shared", id="shared is asked for"),
        pytest.param(SOME, True, "static", "dynamic", id="static is asked for in vain"),
    ],
)
def test_the_best_that_works(
    analysis: dict[str, list[list[str]]], has_archive: bool, wanted: str, kind: str
) -> None:
    assert libpython.kind(analysis, has_archive=has_archive, wanted=wanted) == kind


def test_a_kind_that_does_not_exist() -> None:
    with pytest.raises(ValueError, match="statik"):
        libpython.kind(NONE, has_archive=True, wanted="statik")


def test_only_a_static_program_is_linked_without_a_loader_in_mind() -> None:
    assert "-static" in libpython.link("static")
    for kind in ("dynamic", "shared"):
        assert "-Wl,--no-dynamic-linker" in libpython.link(kind)
        assert "-static" not in libpython.link(kind)
