"""The event loop of PID 1: merged poll(2) entries, dispatch and timeout."""

import os

import pytest

from initrd.guest._syscalls import POLLIN, POLLOUT
from initrd.guest.command import loop
from initrd.guest.command.loop import Loop


class RecordingHandler:
    """Waits for fixed descriptors and events, and records the events that it gets."""

    def __init__(self, *entries: tuple[int, int]) -> None:
        self.entries = list(entries)
        self.handled: list[dict[int, int]] = []

    def poll_entries(self) -> list[tuple[int, int]]:
        return self.entries

    def handle_events(self, ready: dict[int, int]) -> None:
        self.handled.append(ready)


def test_poll_has_one_entry_for_each_descriptor(monkeypatch: pytest.MonkeyPatch) -> None:
    polled: list[list[tuple[int, int]]] = []

    def poll(files: list[tuple[int, int]], _: int) -> list[tuple[int, int]]:
        polled.append(files)
        return [(7, POLLOUT)]

    monkeypatch.setattr(loop, "poll", poll)
    handlers = [
        RecordingHandler((7, POLLIN), (8, 0)),
        RecordingHandler((8, POLLIN), (7, POLLOUT)),
        RecordingHandler((9, POLLIN)),
    ]
    event_loop = Loop()
    event_loop.handlers += handlers
    assert event_loop.run(lambda: bool(polled))
    assert polled == [[(7, POLLIN | POLLOUT), (8, POLLIN), (9, POLLIN)]]
    assert [handler.handled for handler in handlers] == [[{7: POLLOUT}], [{7: POLLOUT}], []]


def test_loop_calls_the_handler_of_a_ready_descriptor_and_stops_at_the_timeout() -> None:
    reader, writer = os.pipe()
    try:
        handler = RecordingHandler((reader, POLLIN))
        event_loop = Loop()
        event_loop.handlers.append(handler)
        assert not event_loop.run(lambda: bool(handler.handled), 0.01)
        os.write(writer, b"x")
        assert event_loop.run(lambda: bool(handler.handled), 10.0)
        assert handler.handled == [{reader: POLLIN}]
    finally:
        os.close(reader)
        os.close(writer)
