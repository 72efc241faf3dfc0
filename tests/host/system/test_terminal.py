"""Messages of chrootvm on a terminal."""

import pytest

from initrd.host.system.terminal import escape_controls


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param("plain words\nin two lines", "plain words\nin two lines", id="plain"),
        pytest.param("größer … ✓", "größer … ✓", id="not ASCII"),
        pytest.param("name \udcff", "name \udcff", id="not UTF-8"),
        pytest.param("\x1b]0;title\x07\x1b[2J", r"\x1b]0;title\x07\x1b[2J", id="escape sequences"),
        pytest.param("a\rb\x9bc", r"a\rb\x9bc", id="return and a C1 control"),
    ],
)
def test_control_characters_of_a_guest_are_escaped(text: str, expected: str) -> None:
    assert escape_controls(text) == expected
