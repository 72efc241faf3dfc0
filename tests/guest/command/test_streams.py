"""Copying between a stream of the command and a port."""

import os

from initrd.guest._syscalls import POLLIN
from initrd.guest.command.streams import StreamCopy


def test_stream_copy_ended_by_another_handler_does_not_read() -> None:
    reader, writer = os.pipe()
    copy = StreamCopy(reader, writer, lambda ended: os.close(ended.source))
    copy.end(broken=True)
    copy.handle_events({reader: POLLIN})
    os.close(writer)
    assert copy.received == 0
