"""The loop that waits for descriptors, its timer, and the limits of a caller."""

import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable

import pytest

from initrd.host.system.loop import READABLE, Cancelled, Limit, Loop, is_ready

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


class Clock:
    """The monotonic clock, and a loop that only lets time pass."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        self.waited: list[float | None] = []  # seconds for which the loop was run
        monkeypatch.setattr(time, "monotonic", lambda: self.now)

    def run(self, until: Callable[[], bool], seconds: float | None = None) -> bool:
        self.waited.append(seconds)
        if not until():
            assert seconds is not None
            self.now += seconds
        return until()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def test_limit_without_end_has_no_remaining_time(clock: Clock) -> None:
    limit = Limit()
    clock.now += 1e9
    assert limit.remaining() is None


def test_remaining_time_decreases_to_zero(clock: Clock) -> None:
    limit = Limit(10.0)
    assert limit.remaining() == 10.0
    clock.now += 4
    assert limit.remaining() == 6.0
    clock.now += 100
    assert limit.remaining() == 0.0


def test_limit_of_no_time_is_no_limit_without_end() -> None:
    assert Limit(0.0).remaining() == 0.0


def test_wait_returns_true_when_its_condition_holds(clock: Clock) -> None:
    for limit in (Limit(), Limit(5.0), Limit(0.0), Limit(None, lambda: True)):
        assert limit.wait(clock, lambda: True, 1.0)
    assert clock.now == 1000.0


@pytest.mark.parametrize(
    ("deadline", "seconds", "waited", "cancelled"),
    [
        pytest.param(None, 3.0, 3.0, False, id="no deadline"),
        pytest.param(5.0, 3.0, 3.0, False, id="shorter than the deadline"),
        pytest.param(5.0, 5.0, 5.0, False, id="as long as the deadline"),
        pytest.param(5.0, 8.0, 5.0, True, id="longer than the deadline"),
        pytest.param(0.0, 8.0, 0.0, True, id="the deadline has passed"),
        pytest.param(0.0, 0.0, 0.0, False, id="no time to wait"),
    ],
)
def test_wait_ends_at_the_earlier_of_both_times(
    clock: Clock, deadline: float | None, seconds: float, waited: float, cancelled: bool
) -> None:
    limit = Limit(deadline)
    if cancelled:
        with pytest.raises(Cancelled):
            limit.wait(clock, lambda: False, seconds)
    else:
        assert not limit.wait(clock, lambda: False, seconds)
    assert clock.waited == [waited]


def test_wait_without_seconds_ends_at_the_deadline(clock: Clock) -> None:
    with pytest.raises(Cancelled):
        Limit(7.0).wait(clock, lambda: False)
    assert clock.waited == [7.0]


def test_time_that_has_passed_shortens_the_next_wait(clock: Clock) -> None:
    limit = Limit(10.0)
    assert not limit.wait(clock, lambda: False, 4.0)
    assert not limit.wait(clock, lambda: False, 4.0)
    with pytest.raises(Cancelled):
        limit.wait(clock, lambda: False, 4.0)
    assert clock.waited == [4.0, 4.0, 2.0]


@pytest.mark.parametrize("deadline", [None, 5.0, 0.0])
def test_cancellation_ends_a_wait_before_its_time(clock: Clock, deadline: float | None) -> None:
    with pytest.raises(Cancelled):
        Limit(deadline, lambda: True).wait(clock, lambda: False, 3.0)
    assert clock.now == 1000.0


def test_result_that_comes_with_the_cancellation_is_a_result(clock: Clock) -> None:
    done = [False]

    def is_cancelled() -> bool:
        done[0] = True
        return True

    assert Limit(None, is_cancelled).wait(clock, lambda: done[0], 3.0)


def test_result_that_comes_at_the_deadline_is_a_result(clock: Clock) -> None:
    assert Limit(5.0).wait(clock, lambda: clock.now >= 1005.0, 8.0)


def test_limit_runs_the_loop_while_it_waits() -> None:
    loop, received = Loop(), []
    reader, writer = os.pipe()
    loop.watch(reader, READABLE, lambda _: received.append(os.read(reader, 10)))
    os.write(writer, b"x")
    assert Limit(LONG_TIME).wait(loop, lambda: bool(received), LONG_TIME)
    os.write(writer, b"y")
    with pytest.raises(Cancelled):
        Limit(None, lambda: len(received) == 2).wait(loop, lambda: False, LONG_TIME)
    with pytest.raises(Cancelled):
        Limit(0.01).wait(loop, lambda: False)
    assert not Limit().wait(loop, lambda: False, 0.01)
    os.close(reader)
    os.close(writer)


def test_a_later_call_is_made_once_in_the_order_of_their_times() -> None:
    loop, calls = Loop(), []
    loop.call_later(0.1, lambda: calls.append("second"))
    loop.call_later(0.0, lambda: calls.append("first"))
    assert loop.run(lambda: len(calls) > 1, 10)
    assert not loop.run(lambda: False, 0.15)
    assert calls == ["first", "second"]


def test_a_later_call_may_order_another() -> None:
    loop, calls = Loop(), []
    loop.call_later(0.0, lambda: loop.call_later(0.0, lambda: calls.append("inner")))
    assert loop.run(lambda: bool(calls), 10)


STOPPING = """
import os, signal
from initrd.host.system.loop import Loop, Signals
os.setpgid(0, 0)  # with a parent in another group of the session: the group is not orphaned
loop, seen = Loop(), []
with Signals(loop) as signals:
    def handle(number):
        seen.append(number)
        os.write(1, signal.Signals(number).name.encode() + b"\\n")
    signals.on_signal = handle
    os.write(1, b"ready\\n")
    loop.run(lambda: signal.SIGUSR1 in seen)
"""


def test_sigtstp_stops_the_process_after_its_handler() -> None:
    process = subprocess.Popen([sys.executable, "-c", STOPPING], stdout=subprocess.PIPE)
    assert process.stdout
    try:
        assert process.stdout.readline() == b"ready\n"
        process.send_signal(signal.SIGTSTP)
        assert process.stdout.readline() == b"SIGTSTP\n"
        _, status = os.waitpid(process.pid, os.WUNTRACED)
        assert os.WIFSTOPPED(status)
        process.send_signal(signal.SIGCONT)
        assert process.stdout.readline() == b"SIGCONT\n"
        process.send_signal(signal.SIGUSR1)
        assert process.wait(60) == 0
    finally:
        process.kill()
        process.communicate()
