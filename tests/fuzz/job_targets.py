"""Targets in the code of /init that serves a host: one command on ports, several in frames.

The processes are fakes: nothing is executed, and no process gets a signal.
"""

import socket
from contextlib import ExitStack

from initrd import frames
from initrd.command import STREAMS, Command, dump
from initrd.guest.command.control import ControlPort, Messages
from initrd.guest.command.jobs import JobServer
from initrd.guest.command.spawn import SpawnError, SpawnRequest
from initrd.guest.command.streams import PortLink, Streams
from initrd.guest.command.supervise import Supervisor
from tests.fake_processes import FakeProcesses
from tests.fuzz.target import Target

_MAX_INPUT = 1 << 15  # bytes; a socket takes as much at once
_COMMANDS = (Command((b"cat",)), Command((b"sh",), tty=(0, 1, 2)), Command((b"cat",), tty=(1,)))


def run_host_frames(data: bytes) -> None:
    """Serve a host that sends these frames and then closes the port."""
    with ExitStack() as stack:
        processes = stack.enter_context(FakeProcesses())
        guest = _connect(stack, data[:_MAX_INPUT])
        server = JobServer(guest, processes, _make_request, _report_error)
        server.serve()
        assert len(server._port._outgoing) < 1 << 20
        for job in server._jobs:  # the power-off closes the streams of those that have not ended
            if job._streams:
                job._streams.close()


def run_host_messages(data: bytes) -> None:
    """Run a command for a host that sends these messages; the first byte selects the command."""
    command, data = _COMMANDS[data[0] % len(_COMMANDS) if data else 0], data[1:_MAX_INPUT]
    with ExitStack() as stack:
        processes = stack.enter_context(FakeProcesses())
        ports = {f"initrd.{name}": _connect(stack, data[:9]) for name in (*STREAMS, "tty")}
        control = ControlPort(_connect(stack, data))
        streams = Streams(command, PortLink(ports), control)
        request = _make_request(command, streams)
        message = Supervisor(control, streams, processes).run(request)
        assert message.split(" ")[0] in ("exit", "signal")
        streams.close()


def _connect(stack: ExitStack, data: bytes) -> int:
    """Return a non-blocking port from which `data` can be read, and then its end."""
    host, guest = (stack.enter_context(end) for end in socket.socketpair())
    guest.setblocking(False)
    host.sendall(data)
    host.shutdown(socket.SHUT_WR)
    return guest.fileno()


def _make_request(command: Command, streams: Streams) -> SpawnRequest:
    descriptors = tuple(streams.child_ends)
    return SpawnRequest(command.argv, {}, command.cwd, None, descriptors, streams.terminal)


def _report_error(_failure: SpawnError, _request: SpawnRequest, control: Messages) -> str:
    control.send("warning", "no such program")
    return "exit 127"


def _run(number: int, command: Command) -> bytes:
    return frames.encode_frame(frames.channel_of(number, "control"), frames.RUN, dump(command))


def _data(number: int, name: str, data: bytes) -> bytes:
    return frames.encode_frame(frames.channel_of(number, name), frames.DATA, data)


_CLOSE = frames.encode_frame(frames.channel_of(1, "control"), frames.CLOSE)
_FRAMES = (
    _run(1, _COMMANDS[0]) + _data(1, "stdin", b"input") + _data(1, "control", b"eof stdin 5\n"),
    _run(1, Command((b"true",))) + frames.encode_credit(10, 7) + _run(2, Command((b"missing",))),
    _run(1, _COMMANDS[1]) + _data(1, "tty", b"word\r") + _data(1, "control", b"resize 24 80\n"),
    _run(1, _COMMANDS[2]) + _data(1, "control", b"closed stdout\nsignal 15\n") + _CLOSE,
    _run(1, _COMMANDS[0]) + _data(1, "control", b"kill\n") + _data(0, "control", b"stop\nbye\n"),
)
_MESSAGES = (
    b"\0eof stdin 9\nclosed stdout\nsignal 15\nbye\n",
    b"\1resize 24 80\nclosed tty\nsignal 1\n",
    b"\2closed stderr\neof tty 3\nresize 1 1\nsignal 64\n",
)

TARGETS = (
    Target("host-frames", run_host_frames, _FRAMES, inputs=500),
    Target("host-messages", run_host_messages, _MESSAGES, inputs=500),
)
