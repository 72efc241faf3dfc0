"""A pump that somebody ended while it waited."""

import os

from initrd.guest._syscalls import POLLIN
from initrd.guest.command.streams import StreamCopy


def test_a_pump_that_was_ended_in_the_same_turn_touches_nothing() -> None:
    reader, writer = os.pipe()
    pump = StreamCopy(reader, writer, lambda ended: os.close(ended.source))
    pump.end(broken=True)
    pump.act({reader: POLLIN})
    os.close(writer)
    assert pump.received == 0
