"""The channels of the guest's port, without commands."""

import fcntl
import os
import socket

from initrd import frames
from initrd.command import STREAMS
from initrd.frames import CONTROL, CREDIT, WINDOW, Decoder, channel_of, encode_frame
from initrd.guest._syscalls import POLLIN, POLLOUT
from initrd.guest.command.channels import ChannelInput, ControlChannel, Port
from initrd.guest.command.streams import Copy

MESSAGE = "x" * 4000


def receive(end: socket.socket, port: Port, fd: int, decoder: Decoder) -> dict[int, bytes]:
    """Let the port write all that it can; return what it has sent on each channel."""
    received: dict[int, bytes] = {}
    while port.poll_entries() == [(fd, POLLIN | POLLOUT)] or is_readable(end):
        port.handle_events({fd: POLLOUT})
        for channel, kind, payload in decoder.feed(end.recv(1 << 20)):
            assert kind == frames.DATA
            received[channel] = received.get(channel, b"") + payload
    return received


def is_readable(end: socket.socket) -> bool:
    try:
        return bool(end.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT))
    except BlockingIOError:
        return False


def test_messages_wait_for_credit_and_hold_up_no_other_channel() -> None:
    host, guest = socket.socketpair()
    with host, guest:
        guest.setblocking(False)
        fd = guest.fileno()
        port, decoder = Port(fd), Decoder()
        full, other = (ControlChannel(port.open_channel(number, CONTROL)) for number in (1, 2))
        count = WINDOW // len(MESSAGE) + 10
        for _ in range(count):
            full.send("warning", MESSAGE)
        other.send("started")
        first = receive(host, port, fd, decoder)
        assert len(first[channel_of(1, CONTROL)]) == WINDOW
        assert first[channel_of(2, CONTROL)] == b"started\n"
        assert not full.is_sent
        credit = WINDOW.to_bytes(4, "little")
        host.send(encode_frame(channel_of(1, CONTROL), CREDIT, credit))
        port.handle_events({fd: POLLIN})
        rest = receive(host, port, fd, decoder)
        sent = first[channel_of(1, CONTROL)] + rest[channel_of(1, CONTROL)]
        assert sent == f"warning {MESSAGE}\n".encode() * count
        assert full.is_sent


def test_input_is_polled_for_space_only_while_the_sink_is_full() -> None:
    host, guest = socket.socketpair()
    with host, guest:
        guest.setblocking(False)
        reader, writer = os.pipe()
        os.set_blocking(writer, False)
        size = fcntl.fcntl(writer, fcntl.F_GETPIPE_SZ)
        channel = Port(guest.fileno()).open_channel(1, STREAMS[0])
        ended: list[Copy] = []
        copy = ChannelInput(channel, writer, ended.append)
        assert copy.poll_entries() == [(writer, 0)]
        channel.on_data(bytes(size + 10))
        assert copy.poll_entries() == [(writer, POLLOUT)]
        assert len(os.read(reader, size)) == size
        copy.handle_events({writer: POLLOUT})
        assert copy.poll_entries() == [(writer, 0)]
        assert os.read(reader, size) == bytes(10)
        assert not ended
        os.close(reader)
        os.close(writer)
