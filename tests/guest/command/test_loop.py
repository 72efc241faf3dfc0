"""Where PID 1 waits."""

import os

import pytest

from initrd.guest._syscalls import POLLIN, POLLOUT
from initrd.guest.command import loop
from initrd.guest.command.loop import Loop


class Waiter:
    """Somebody who waits for files, and keeps what was ready."""

    def __init__(self, *wanted: tuple[int, int]) -> None:
        self.wanted = list(wanted)
        self.seen: list[dict[int, int]] = []

    def wants(self) -> list[tuple[int, int]]:
        return self.wanted

    def act(self, ready: dict[int, int]) -> None:
        self.seen.append(ready)


def test_a_descriptor_is_polled_once_for_all_who_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    polled: list[list[tuple[int, int]]] = []

    def poll(files: list[tuple[int, int]], _: int) -> list[tuple[int, int]]:
        polled.append(files)
        return [(7, POLLOUT)]

    monkeypatch.setattr(loop, "poll", poll)
    waiters = [Waiter((7, POLLIN), (8, 0)), Waiter((8, POLLIN), (7, POLLOUT)), Waiter((9, POLLIN))]
    it = Loop()
    it.watchers += waiters
    assert it.run(lambda: bool(polled))
    assert polled == [[(7, POLLIN | POLLOUT), (8, POLLIN), (9, POLLIN)]]
    assert [waiter.seen for waiter in waiters] == [[{7: POLLOUT}], [{7: POLLOUT}], []]


def test_what_is_ready_is_told_to_whoever_waits_for_it() -> None:
    reader, writer = os.pipe()
    try:
        waiter = Waiter((reader, POLLIN))
        it = Loop()
        it.watchers.append(waiter)
        assert not it.run(lambda: bool(waiter.seen), 0.01)
        os.write(writer, b"x")
        assert it.run(lambda: bool(waiter.seen), 10.0)
        assert waiter.seen == [{reader: POLLIN}]
    finally:
        os.close(reader)
        os.close(writer)
