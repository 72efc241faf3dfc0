"""Copying between a stream of the command and a port."""

import os

from initrd.command import STREAMS, Command
from initrd.guest._syscalls import POLLIN
from initrd.guest.command.control import ControlPort
from initrd.guest.command.streams import PortLink, StreamCopy, Streams


def test_stream_copy_ended_by_another_handler_does_not_read() -> None:
    reader, writer = os.pipe()
    copy = StreamCopy(reader, writer, lambda ended: os.close(ended.source))
    copy.end(broken=True)
    copy.handle_events({reader: POLLIN})
    os.close(writer)
    assert copy.received == 0


def test_discarded_streams_leave_their_ports_open_and_no_descriptor() -> None:
    before = os.listdir("/proc/self/fd")
    port = os.open("/dev/null", os.O_RDWR)
    ports = {f"initrd.{name}": port for name in STREAMS}
    streams = Streams(Command((b"true",)), PortLink(ports), ControlPort(port))
    assert len(set(streams.child_ends)) == 3
    streams.discard()
    os.close(port)
    assert os.listdir("/proc/self/fd") == before
