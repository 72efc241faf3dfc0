"""Targets in the code of the host: messages, frames and console output of the guest."""

import socket
from contextlib import ExitStack

from initrd import frames
from initrd.host.command.protocol import CommandProtocol, LocalStreams
from initrd.host.qemu import console
from initrd.host.qemu.initpanic import PanicFilter
from initrd.host.report.report import render
from initrd.host.report.timeline import Timeline
from initrd.host.service.mux import Port
from initrd.host.system.hosterror import HostError
from initrd.host.system.loop import Loop
from tests.fuzz.target import Target

_PORTS = (
    ("control", "stdin", "stdout", "stderr"),
    ("control", "tty"),
    ("control",),
)
_MAX_INPUT = 1 << 15  # bytes; a socket takes as much at once
_MEMORY = 256 << 20


def run_messages(data: bytes) -> None:
    """Handle the messages of a guest; the first byte selects the ports of the command."""
    names, data = _PORTS[data[0] % len(_PORTS) if data else 0], data[1:_MAX_INPUT]
    loop, warnings = Loop(), list[str]()
    with ExitStack() as stack:
        pairs = {f"initrd.{name}": socket.socketpair() for name in names}
        for pair in pairs.values():
            for end in pair:
                stack.enter_context(end)
        sockets = {name: host for name, (host, _) in pairs.items()}
        guest = CommandProtocol(loop, sockets, LocalStreams(on_warning=warnings.append))
        stack.callback(guest.close)
        pairs["initrd.control"][1].sendall(data)
        for name in names[1:]:
            pairs[f"initrd.{name}"][1].sendall(data[:9])
        try:
            for _ in range(20):
                loop.run(lambda: False, 0)
            if guest.finished and not guest.failure and not guest.refusal:
                assert 0 <= guest.status() <= 255
        except HostError as error:
            assert error.what == "cannot understand the guest"
    assert len(warnings) <= 51
    assert all(len(text) < 5000 for text in warnings)


def run_frames(data: bytes) -> None:
    """Handle the frames of a guest in which two commands run."""
    errors: list[str] = []
    with ExitStack() as stack:
        host, guest = (stack.enter_context(end) for end in socket.socketpair())
        port = Port(Loop(), host)
        port.on_error = errors.append
        stack.callback(port.close)
        for _ in range(2):
            pairs = {name: socket.socketpair() for name in frames.CHANNELS[:4]}
            for _, client in pairs.values():
                stack.enter_context(client)
            port.run(b"x", {name: end for name, (end, _) in pairs.items()})
        for at in range(0, len(data), 1000):
            port.receive(data[at : at + 1000])
            port.loop.run(lambda: False, 0)
            guest.recv(1 << 20, socket.MSG_DONTWAIT) if at == 0 else None
        assert len(errors) <= 1
        assert len(port._outgoing) < 1 << 16


def run_console(data: bytes) -> None:
    """Read the end of a machine from its console, hold back its panic, and write a report."""
    log, filter_, timeline = console.ConsoleLog(), PanicFilter(), Timeline()
    shown = b""
    for at in range(0, len(data), 50):
        piece = data[at : at + 50]
        log.append(piece)
        timeline.console_printed(piece)
        shown += filter_.feed(piece)
    assert shown + filter_.release() == data
    render("report.json", {}, timeline.phases())
    failure = console.parse_ending(log.text).failure
    for why in (failure, log.text):
        str(console.explain_boot_failure(why, _MEMORY, "/boot/vmlinuz"))
        str(console.explain_failure_of_init(why, _MEMORY, "/boot/vmlinuz"))
        str(console.explain_refusal(why))
    str(console.find_panic(log.text, _MEMORY))
    console.explain_oom_kill(log.text, _MEMORY)


_MESSAGES = (
    b"\0ready\nstarted\neof stdout 0\neof stderr 9\nexit 3\n",
    b"\0warning a\\nb\nclosed stdin\nended signal 9\nsignal 9\n",
    b"\0awake\nready\nfailed cannot mount data: no tag\\ntry: another\\\\tag\n",
    b"\1started\neof tty 9\nrefused no such user\n",
    b"\2ready\nframes 2\n\0\0\0\0\2\1\0\0x",
)
_FRAMES = (
    frames.encode_frame(8, frames.DATA, b"started\nended exit 0\nexit 0\n")
    + frames.encode_frame(10, frames.DATA, b"output")
    + frames.encode_credit(9, 1)
    + frames.encode_frame(8, frames.CLOSE),
    frames.encode_frame(0, frames.DATA, b"warning x\nstopped\n")
    + frames.encode_frame(16, frames.CLOSE),
    frames.encode_frame(19, frames.DATA, bytes(3000)),
)
_CONSOLE = (
    b"[    1.05] initrd: boot failed: no root\r\ninitrd: try: x\r\n[    2.1] reboot: Power down\n",
    b"[    2.57][    T1] Kernel panic - not syncing: Attempted to kill init! exitcode=0x00000700\n"
    b"[    2.58] CPU: 0 PID: 1\n---[ end Kernel panic - not syncing: x ]---\n",
    b"Out of memory: Killed process 77 (cc1) total-vm:1kB\nBUG: x\n------------[ cut here ]---\n",
    b"initrd: mount /sysroot [12.5 ms, at 1.250 s]\r\ninitrd: the kernel [900.0 ms, at 0.000 s]\n",
)

TARGETS = (
    Target("guest-messages", run_messages, _MESSAGES, inputs=500),
    Target("guest-frames", run_frames, _FRAMES, inputs=500),
    Target("console", run_console, _CONSOLE, inputs=500),
)
