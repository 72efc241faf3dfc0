"""Lines of a stream whose sender may be hostile."""

import random
import time

from initrd.host.system.lines import Lines


def take_all(lines: Lines) -> list[bytes]:
    return list(iter(lines.take, None))


def test_lines_are_the_same_however_the_bytes_are_divided() -> None:
    numbers = random.Random(1)
    for _ in range(200):
        data = bytes(numbers.choices(b"ab\n", k=numbers.randint(0, 60)))
        lines, found, rest = Lines(1000), [], data
        while rest:
            size = numbers.randint(1, 9)
            lines.add(rest[:size])
            rest = rest[size:]
            found += take_all(lines)
        *expected, incomplete = data.split(b"\n")
        assert (found, lines.take_rest()) == (expected, incomplete)


def test_rest_is_what_follows_the_lines_that_were_taken() -> None:
    lines = Lines(1000)
    lines.add(b"one\ntwo\nthree")
    assert lines.take() == b"one"
    assert lines.take_rest() == b"two\nthree"
    assert (lines.take(), lines.take_rest()) == (None, b"")


def test_incomplete_line_over_the_limit_is_too_long() -> None:
    lines = Lines(4)
    lines.add(b"long line\n1234")
    assert lines.take() == b"long line"
    assert (lines.take(), lines.is_too_long) == (None, False)
    lines.add(b"5")
    assert (lines.take(), lines.is_too_long) == (None, True)


def test_single_bytes_are_added_in_linear_time() -> None:
    lines, began = Lines(1 << 20), time.monotonic()
    for _ in range(300_000):
        lines.add(b"x")
        assert lines.take() is None
    lines.add(b"\n" * 300_000)
    assert len(take_all(lines)) == 300_000
    assert time.monotonic() - began < 60
