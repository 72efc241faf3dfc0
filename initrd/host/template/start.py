"""Start a machine from a saved one."""

import socket
from contextlib import ExitStack, closing, contextmanager
from functools import partial

from initrd.host.machine.launch import Launch
from initrd.host.machine.run import (
    PHASE_LOAD,
    PHASE_RESUME,
    HostStreams,
    QemuError,
    QemuStart,
    RunningMachine,
    end_at_disk_error,
    start_machine,
)
from initrd.host.qemu import argv
from initrd.host.qemu.qmp import Monitor
from initrd.host.qemu.resources import explain_refused_resource
from initrd.host.system.hosterror import HostError
from initrd.host.system.loop import WRITABLE, Limit, Loop

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_LOAD_TIMEOUT = 30.0  # seconds; it takes some milliseconds


class TemplateError(HostError):
    """A template cannot be made or used, whatever the command, the shares and the disks are."""


def why_ended(machine: RunningMachine) -> str:
    """Return why a machine is off; empty when no reason is known, or the machine still runs.

    Raises HostError when that has nothing to do with the template.
    """
    try:
        return machine.ending().failure.replace("\n", "; ") if machine.is_off else ""
    except QemuError as error:
        return error.why


@contextmanager
def start_from_template(
    launch: Launch,
    loop: Loop,
    streams: HostStreams,
    memory: int,
    load: "Callable[[], bytes]",
) -> "Iterator[RunningMachine]":
    """Start the machine of `launch`, which ends with the `with` statement.

    `memory`: descriptor of its memory; `load` fills the memory and returns the state of the
    devices. Raises TemplateError when QEMU does not accept them; HostError; Cancelled.
    """
    setup = launch.setup
    with ExitStack() as stack:
        enter = stack.enter_context
        pairs = [[enter(closing(end)) for end in socket.socketpair()] for _ in range(2)]
        (connection, qemu_connection), (state_writer, state_reader) = pairs
        command = partial(argv.start_command, setup, memory=f"/proc/self/fd/{memory}")
        descriptors = (*setup.descriptors, memory, state_reader.fileno())
        streams = streams.replace(monitor=qemu_connection.fileno())
        qemu = QemuStart(command, descriptors, PHASE_LOAD, copies_connections=True)
        machine = enter(start_machine(launch, loop, streams, qemu))
        monitor = Monitor(loop, connection)
        stack.callback(monitor.close)
        monitor.start_loading(state_reader.fileno())
        qemu_connection.close()
        state_reader.close()
        _load_state(machine, monitor, state_writer, streams.limit, load())
        streams.observer.phase_started(PHASE_RESUME)
        monitor.on_error = lambda why: machine.fail(
            explain_refused_resource(why, setup) or HostError("cannot plug in a device", why)
        )
        end_at_disk_error(machine, monitor, setup.disks)
        for device in reversed(argv.plugged_devices(setup)):  # function 0 announces the others
            monitor.execute("device_add", **device.arguments())
        if setup.disks:
            _wait_for_disks(machine, monitor, streams.limit)
        monitor.execute("cont")
        yield machine


def _wait_for_disks(machine: RunningMachine, monitor: Monitor, limit: Limit) -> None:
    """Wait until the disks are plugged in: another program may have locked the image of one.

    A guest without one of its devices would report that this device is not there. Raises HostError.
    """
    limit.wait(machine.loop, lambda: machine.is_off or not monitor.unanswered, _LOAD_TIMEOUT)
    if machine.is_off:
        machine.ending()


def _load_state(
    machine: RunningMachine,
    monitor: Monitor,
    connection: socket.socket,
    limit: Limit,
    state: bytes,
) -> None:
    """Send the state of the devices to QEMU, and wait until it is loaded."""
    with _sending(machine.loop, connection, state):
        limit.wait(
            machine.loop,
            lambda: (
                monitor.migration in ("completed", "failed")
                or bool(monitor.error)
                or machine.is_off
            ),
            _LOAD_TIMEOUT,
        )
    if monitor.migration != "completed" or monitor.error:
        why = monitor.error or why_ended(machine) or "QEMU refuses it"
        raise TemplateError("cannot start from a template", why)


@contextmanager
def _sending(loop: Loop, connection: socket.socket, data: bytes) -> "Iterator[None]":
    """Send `data` while the loop runs, as fast as QEMU reads it, and close the connection."""
    remaining = memoryview(data)

    def send(_: int) -> None:
        nonlocal remaining
        try:
            sent = connection.send(remaining, socket.MSG_DONTWAIT | socket.MSG_NOSIGNAL)
        except BlockingIOError:
            return
        except OSError:  # QEMU has ended
            sent = len(remaining)
        remaining = remaining[sent:]
        if not remaining:
            close()

    def close() -> None:
        if connection.fileno() >= 0:
            loop.unwatch(connection.fileno())
            connection.close()

    loop.watch(connection.fileno(), WRITABLE, send)
    try:
        yield
    finally:
        close()
