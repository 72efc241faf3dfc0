"""The loop that waits for descriptors."""

import os
import resource
import time

from initrd.host.system.loop import READABLE, Loop, is_ready

FOREVER = 60.0  # seconds


def test_a_pulse_beats_while_nothing_happens_and_until_it_is_stopped() -> None:
    loop, beats = Loop(), [0]

    def beat() -> None:
        beats[0] += 1
        if beats[0] == 3:
            loop.set_timer(None, beat)

    loop.set_timer(0.001, beat)
    assert loop.run(lambda: beats[0] == 3, FOREVER)
    assert not loop.run(lambda: beats[0] > 3, 0.05)


def test_a_pulse_does_not_outlast_the_time_that_is_given() -> None:
    loop = Loop()
    loop.set_timer(0.001, lambda: None)
    assert not loop.run(lambda: False, 0.05)


def test_what_happens_is_heard_of_all_the_same() -> None:
    loop, heard = Loop(), []
    reader, writer = os.pipe()
    loop.watch(reader, READABLE, lambda _: heard.append(os.read(reader, 10)))
    loop.set_timer(FOREVER, lambda: None)
    os.write(writer, b"words")
    assert loop.run(lambda: bool(heard), FOREVER)
    assert heard == [b"words"]
    os.close(reader)
    os.close(writer)


def test_neither_pulse_nor_deadline_wait_for_silence() -> None:
    loop, beats = Loop(), [0]
    reader, writer = os.pipe()
    os.write(writer, b"never read, so always ready")
    loop.watch(reader, READABLE, lambda _: None)
    loop.set_timer(0.01, lambda: beats.__setitem__(0, beats[0] + 1))
    began = time.monotonic()
    assert not loop.run(lambda: False, 0.2)
    assert time.monotonic() - began < FOREVER
    assert 1 <= beats[0] <= 21
    os.close(reader)
    os.close(writer)


def test_a_descriptor_of_any_number_can_be_waited_for() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    high = 2000  # select(2) ends at 1023
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, high + 1), hard))
    reader, writer = os.pipe()
    try:
        os.dup2(reader, high)
        assert not is_ready(high, READABLE)
        os.write(writer, b"x")
        assert is_ready(high, READABLE, FOREVER)
        os.close(high)
    finally:
        os.close(reader)
        os.close(writer)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_time_may_be_longer_than_one_poll_can_wait() -> None:
    loop, heard = Loop(), []
    reader, writer = os.pipe()
    loop.watch(reader, READABLE, lambda _: heard.append(os.read(reader, 10)))
    os.write(writer, b"x")
    assert loop.run(lambda: bool(heard), 1e9)
    os.close(reader)
    os.close(writer)
