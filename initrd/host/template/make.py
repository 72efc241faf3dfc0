"""Make a template: boot a machine without a command, and save it when `/init` waits for one."""

import os
import socket
from contextlib import ExitStack, closing
from functools import partial

from initrd.host.image.build import append_command_file
from initrd.host.machine.launch import Launch
from initrd.host.machine.run import (
    PHASE_TEMPLATE,
    HostStreams,
    QemuStart,
    RunningMachine,
    start_machine,
)
from initrd.host.qemu import argv
from initrd.host.qemu.qmp import Monitor
from initrd.host.system.loop import Limit, Loop
from initrd.host.system.stream import Relay
from initrd.host.template import memory
from initrd.host.template.key import warm_of
from initrd.host.template.start import TemplateError, why_ended
from initrd.record import Record
from initrd.template import PORTS, Template, dump_template

_SAVE_TIMEOUT = 30.0  # seconds; it takes 0.01
_BOOT_TIMEOUT = 120.0  # seconds; it takes two, and ten times that on a slow machine
_MAX_MESSAGE = 1 << 16  # bytes
_MAX_REASON = 1000  # bytes of a message that are shown
_MAX_STATE = 1 << 24  # bytes; the state of the devices has some 140 kB


class Snapshot(Record):
    """A saved machine."""

    state: bytes  # of the devices
    memory: int  # descriptor of a file in memory


def make_snapshot(launch: Launch, loop: Loop, streams: HostStreams) -> Snapshot:
    """Boot a template for `launch` and return it.

    Raises TemplateError; HostError for anything else, such as a directory that cannot be shared;
    and Cancelled.
    """
    streams.observer.phase_started(PHASE_TEMPLATE)
    settings = Template(argv.PORT_ADDRESS, launch.setup.network)
    with ExitStack() as stack:
        image = append_command_file(launch.setup.initrd, dump_template(settings))
        stack.callback(os.close, image.descriptor)
        setup = launch.setup.replace(initrd=image, cmdline=warm_of(launch).cmdline, ports=PORTS)
        memory_file = memory.create(setup.hardware.memory)
        on_failure = stack.enter_context(ExitStack())
        on_failure.callback(os.close, memory_file)
        command = partial(argv.template_command, setup, memory=f"/proc/self/fd/{memory_file}")
        qemu = QemuStart(command, (*setup.descriptors, memory_file), unplugs_shares=True)
        sockets = [socket.socketpair() for _ in range(2)]
        for pair in sockets:
            for end in pair:
                stack.enter_context(closing(end))
        (control, guest_control), (monitor, qemu_monitor) = sockets
        ports = (guest_control.fileno(), *(-1 for _ in PORTS[1:]))
        of_qemu = HostStreams(
            ports=ports, monitor=qemu_monitor.fileno(), on_stderr=streams.on_stderr
        )
        machine = stack.enter_context(
            start_machine(launch.replace(setup=setup), loop, of_qemu, qemu)
        )
        guest_control.close()
        qemu_monitor.close()
        _wait_for_template(machine, control, streams.limit)
        state = _save(machine, monitor, streams.limit)
        on_failure.pop_all()
    return Snapshot(state, memory_file)


def _wait_for_template(machine: RunningMachine, control: socket.socket, limit: Limit) -> None:
    received = bytearray()
    relay = Relay(machine.loop, control.fileno(), None, received.extend)
    try:
        in_time = limit.wait(
            machine.loop,
            lambda: b"\n" in received or len(received) > _MAX_MESSAGE or machine.is_off,
            _BOOT_TIMEOUT,
        )
    finally:
        relay.stop()
    if not in_time:
        why = f"its boot has not ended after {_BOOT_TIMEOUT:g} s"
        raise TemplateError("cannot make a template", why)
    if received != b"template\n":
        why = why_ended(machine) or received[:_MAX_REASON].decode(errors="replace").strip()
        raise TemplateError("cannot make a template", why or "the machine has ended")


def _save(machine: RunningMachine, connection: socket.socket, limit: Limit) -> bytes:
    """Return the state of the devices; the machine has stopped."""
    monitor = Monitor(machine.loop, connection)
    reader, writer = os.pipe()
    state = bytearray()
    relay = Relay(machine.loop, reader, None, state.extend)

    def is_saved() -> bool:
        return relay.ended and monitor.migration == "completed"

    def has_failed() -> bool:
        failed = bool(monitor.error) or monitor.migration == "failed" or machine.is_off
        return failed or len(state) > _MAX_STATE

    try:
        try:
            monitor.start_saving(writer)
        finally:
            os.close(writer)
        limit.wait(machine.loop, lambda: is_saved() or has_failed(), _SAVE_TIMEOUT)
        complete = is_saved() and not has_failed()
    finally:
        relay.stop()
        os.close(reader)
        monitor.close()
    if not complete or not state:
        why = monitor.error or why_ended(machine) or "QEMU cannot save this machine"
        raise TemplateError("cannot make a template", why)
    return bytes(state)
