"""The loop that waits for descriptors."""

import os

from initrd.host.loop import READABLE, Loop

FOREVER = 60.0  # seconds


def test_a_pulse_beats_while_nothing_happens_and_until_it_is_stopped() -> None:
    loop, beats = Loop(), [0]

    def beat() -> None:
        beats[0] += 1
        if beats[0] == 3:
            loop.pulse(None, beat)

    loop.pulse(0.001, beat)
    assert loop.run(lambda: beats[0] == 3, FOREVER)
    assert not loop.run(lambda: beats[0] > 3, 0.05)


def test_a_pulse_does_not_outlast_the_time_that_is_given() -> None:
    loop = Loop()
    loop.pulse(0.001, lambda: None)
    assert not loop.run(lambda: False, 0.05)


def test_what_happens_is_heard_of_all_the_same() -> None:
    loop, heard = Loop(), []
    reader, writer = os.pipe()
    loop.watch(reader, READABLE, lambda _: heard.append(os.read(reader, 10)))
    loop.pulse(FOREVER, lambda: None)
    os.write(writer, b"words")
    assert loop.run(lambda: bool(heard), FOREVER)
    assert heard == [b"words"]
    os.close(reader)
    os.close(writer)
