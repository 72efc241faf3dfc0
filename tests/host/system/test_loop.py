"""The loop that waits for descriptors, and its timer."""

import os
import resource
import time

from initrd.host.system.loop import READABLE, Loop, is_ready

LONG_TIME = 60.0  # seconds


def test_the_timer_runs_while_no_descriptor_is_ready_until_it_is_stopped() -> None:
    loop, calls = Loop(), [0]

    def stop_at_third_call() -> None:
        calls[0] += 1
        if calls[0] == 3:
            loop.set_timer(None, stop_at_third_call)

    loop.set_timer(0.001, stop_at_third_call)
    assert loop.run(lambda: calls[0] == 3, LONG_TIME)
    assert not loop.run(lambda: calls[0] > 3, 0.05)


def test_the_loop_ends_at_its_deadline_although_a_timer_is_set() -> None:
    loop = Loop()
    loop.set_timer(0.001, lambda: None)
    assert not loop.run(lambda: False, 0.05)


def test_a_ready_descriptor_is_handled_although_a_timer_is_set() -> None:
    loop, received = Loop(), []
    reader, writer = os.pipe()
    loop.watch(reader, READABLE, lambda _: received.append(os.read(reader, 10)))
    loop.set_timer(LONG_TIME, lambda: None)
    os.write(writer, b"words")
    assert loop.run(lambda: bool(received), LONG_TIME)
    assert received == [b"words"]
    os.close(reader)
    os.close(writer)


def test_timer_and_deadline_expire_although_a_descriptor_is_always_ready() -> None:
    loop, calls = Loop(), [0]
    reader, writer = os.pipe()
    os.write(writer, b"never read, so always ready")
    loop.watch(reader, READABLE, lambda _: None)
    loop.set_timer(0.01, lambda: calls.__setitem__(0, calls[0] + 1))
    began = time.monotonic()
    assert not loop.run(lambda: False, 0.2)
    assert time.monotonic() - began < LONG_TIME
    assert 1 <= calls[0] <= 21
    os.close(reader)
    os.close(writer)


def test_is_ready_waits_for_a_descriptor_above_1023() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    high = 2000  # select(2) ends at 1023
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, high + 1), hard))
    reader, writer = os.pipe()
    try:
        os.dup2(reader, high)
        assert not is_ready(high, READABLE)
        os.write(writer, b"x")
        assert is_ready(high, READABLE, LONG_TIME)
        os.close(high)
    finally:
        os.close(reader)
        os.close(writer)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_the_deadline_may_be_later_than_poll_can_wait() -> None:
    loop, received = Loop(), []
    reader, writer = os.pipe()
    loop.watch(reader, READABLE, lambda _: received.append(os.read(reader, 10)))
    os.write(writer, b"x")
    assert loop.run(lambda: bool(received), 1e9)
    os.close(reader)
    os.close(writer)


def test_the_loop_returns_its_condition_when_the_time_is_up() -> None:
    assert not Loop().run(lambda: False, 0.01)
    assert Loop().run(lambda: True, 0)


def test_a_callback_may_stop_the_watch_of_another_descriptor() -> None:
    loop, called = Loop(), []
    pipes = (os.pipe(), os.pipe())

    def ignore_other(reader: int, other: int) -> None:
        called.append(reader)
        loop.unwatch(other)

    for (reader, writer), (other, _) in (pipes, pipes[::-1]):
        os.write(writer, b"x")
        loop.watch(reader, READABLE, lambda _, r=reader, o=other: ignore_other(r, o))
    loop.run(lambda: bool(called), 10)
    assert len(called) == 1
    for descriptor in (*pipes[0], *pipes[1]):
        os.close(descriptor)
