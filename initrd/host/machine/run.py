"""A running machine: QEMU, a virtiofsd for each share, and the streams between them and the host.

A `with` statement owns each process and socket. virtiofsd and QEMU start at the same time; neither
waits for a file or for the name of a socket to appear.
"""

import os
import signal
import socket
import time
from contextlib import ExitStack, closing, contextmanager
from functools import partial

from initrd.host.machine import gdb
from initrd.host.machine.disks import lock_disks
from initrd.host.machine.launch import Launch
from initrd.host.machine.serialport import SerialPipes
from initrd.host.qemu import argv
from initrd.host.qemu.argv import STDIO_STREAM, Connections, Setup, fd_stream
from initrd.host.qemu.console import ConsoleLog, Ending, parse_ending
from initrd.host.qemu.diskerror import DiskError, explain_disk_stop
from initrd.host.qemu.loopback import LoopbackGuard
from initrd.host.qemu.resources import explain_refused_resource
from initrd.host.system.hosterror import HostError
from initrd.host.system.loop import READABLE, Limit, Loop, is_ready
from initrd.host.system.process import Process, Program
from initrd.host.system.stream import Relay, Sink, StderrPipe, count_unread
from initrd.host.system.terminal import MessageWriter
from initrd.host.virtiofsd import program
from initrd.host.virtiofsd.serve import Server, serve_share
from initrd.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from initrd.host.qemu.argv import Disk
    from initrd.host.qemu.qmp import Monitor
    from initrd.options import Share

# Phases of a boot, for BootObserver: each one ends the phase before it.
PHASE_PREPARE, PHASE_START = "find files, make the image", "start the programs"
PHASE_TEMPLATE, PHASE_LOAD = "make a template", "load the template"
PHASE_RESUME = "continue from the template"
PHASE_KERNEL, PHASE_COMMAND, PHASE_END = "QEMU and its firmware", "command", "power off"
_READ_TIMEOUT, _READ_INTERVAL = 2.0, 0.001  # seconds
# The last line of a kernel that halts, as after `halt -f`, which QEMU does not notice. A program
# that prints it as its last line ends its own machine.
_HALTED, _HALT_DELAY, _TAIL_SIZE = b"reboot: System halted", 1.0, 64  # text, seconds, bytes
_TERMINATED = ("terminating on signal", "Terminated via GDBstub")  # QEMU's messages
_GRACE_PERIOD = 2.0  # seconds for QEMU to end after a virtiofsd has, and for the console to be read


class BootObserver:
    """Receives the phases of a boot and the console's output. This base class ignores both."""

    def phase_started(self, name: str) -> None:
        """Handle the beginning of a phase, which is the end of the phase before."""

    def console_printed(self, data: bytes) -> None:
        """Handle a piece of console output."""


class HostStreams(Record):
    """The host's ends of what a machine is connected to."""

    output: Sink | None = None  # for the console output
    # Descriptors that QEMU inherits, in the order of Setup.ports; -1: the port is not connected.
    ports: tuple[int, ...] = ()
    monitor: int = -1  # a further descriptor, for QMP; -1: none
    observer: BootObserver = BootObserver()
    on_stderr: "Callable[[bytes], object]" = staticmethod(lambda _: None)  # of QEMU and virtiofsd
    limit: Limit = Limit()  # how long the caller waits for a machine that starts from a template
    on_note: "Callable[[str], object]" = staticmethod(lambda _: None)  # remarks for --verbose
    on_waiting: "Callable[[str], object]" = MessageWriter().print_message  # for gdb


class QemuStart(Record):
    """How QEMU is started: its command line, and the descriptors that it inherits."""

    command: "Callable[[Connections], tuple[str, ...]]"
    descriptors: tuple[int, ...]
    phase: str = PHASE_KERNEL  # that begins when QEMU is started
    unplugs_shares: bool = False  # a virtiofsd may end before QEMU
    copies_connections: bool = False  # for `wait_for_virtiofsd`


class QemuError(HostError):
    """QEMU has ended with an error."""


class RunningMachine:
    """A running machine; `start_machine` returns one."""

    def __init__(
        self,
        loop: Loop,
        serial: SerialPipes,
        streams: HostStreams,
        *,
        unplugs_shares: bool = False,
    ) -> None:
        self.loop = loop
        self.keyboard = serial.keyboard  # a pipe: bytes written are input of the guest's console
        self.log = ConsoleLog()
        self.is_off = False
        self.was_terminated = False  # a signal from outside, or gdb, has ended QEMU
        self.has_halted = False  # the kernel has stopped without a power-off; QEMU has not ended
        self._last_output = b""
        self.shares: list[socket.socket] = []  # copies of QEMU's connections to virtiofsd
        self._observer = streams.observer
        self._unplugs_shares = unplugs_shares
        self._serial = serial
        self._output = Relay(loop, serial.output, streams.output, self._on_console)
        self._failure: HostError | None = None
        self._share_failure: HostError | None = None  # which may be the cause of QEMU's
        self._lost_share = False  # its guest may go on printing
        self._qemu: Process | None = None

    def _on_console(self, data: bytes) -> None:
        self._serial.make_blocking()
        self.log.append(data)
        self._last_output = (self._last_output + data)[-_TAIL_SIZE:]
        if self._last_output.rstrip().endswith(_HALTED):
            size = self.log.size
            self.loop.call_later(_HALT_DELAY, lambda: self._halted(size))
        self._observer.console_printed(data)

    def _halted(self, size: int) -> None:
        """End the machine whose kernel has halted, if nothing was printed after `size` bytes."""
        if self.log.size == size and not self.is_off:
            self.is_off = self.has_halted = True

    def wait(self, seconds: float | None = None) -> bool:
        """Wait until the machine is off, at most `seconds`; return whether it is off."""
        return self.loop.run(lambda: self.is_off, seconds)

    @property
    def is_finished(self) -> bool:
        """Whether the machine is off, and `output` has taken what it has printed."""
        return self.is_off and (self._lost_share or self._is_console_read())

    @property
    def disk_error(self) -> DiskError | None:
        """Why the machine was stopped whose disk cannot be written; None if that is not so."""
        return self._failure if isinstance(self._failure, DiskError) else None

    def ending(self) -> Ending:
        """Return how the guest ended.

        Raises QemuError; HostError when virtiofsd failed; DiskError when the console is read.
        """
        if self.disk_error:
            self.loop.run(self._is_console_read, _GRACE_PERIOD)
        if isinstance(self._failure, QemuError) and self._share_failure:
            raise self._share_failure
        if self._failure:
            raise self._failure
        self.loop.run(lambda: self._output.ended or self.has_halted, _GRACE_PERIOD)
        return parse_ending(self.log.text)

    def _is_console_read(self) -> bool:
        """Return whether `output` has taken all that a stopped machine has printed."""
        ended = self._output.ended
        return ended or (self._output.is_idle and not is_ready(self._serial.output, READABLE))

    def stop(self) -> None:
        """Stop reading the console; QEMU drops its output from here on."""
        self._output.stop()
        self._serial.close(self._serial.output)

    def fail(self, error: HostError) -> None:
        """End with an error."""
        self._failure = self._failure or error
        self.is_off = True

    def wait_for_virtiofsd(self) -> None:
        """Wait until each virtiofsd has read all that QEMU has sent to it.

        The guest must not use a device before: a virtiofsd in Rust forgets the notification of a
        queue that QEMU has not enabled yet.
        """
        deadline = time.monotonic() + _READ_TIMEOUT
        while any(map(count_unread, self.shares)) and time.monotonic() < deadline:
            time.sleep(_READ_INTERVAL)
        for connection in self.shares:
            connection.close()
        self.shares = []

    def watch_qemu(self, process: Process, stderr: StderrPipe, setup: Setup) -> None:
        """Detect the end of QEMU, which ends when the guest powers off."""
        self._qemu = process
        self.loop.watch(process.pidfd, READABLE, lambda _: self._qemu_ended(process, stderr, setup))

    def watch_virtiofsd(self, tag: str, process: Process, stderr: StderrPipe) -> None:
        """Detect the end of a virtiofsd."""
        self.loop.watch(
            process.pidfd, READABLE, lambda _: self._virtiofsd_ended(tag, process, stderr)
        )

    def _qemu_ended(self, process: Process, stderr: StderrPipe, setup: Setup) -> None:
        self.loop.unwatch(process.pidfd)
        self.is_off = True
        self._serial.close(*self._serial.of_qemu)
        output = stderr.last_lines()
        self.was_terminated = any(message in output for message in _TERMINATED)
        if process.status():
            why = _explain_exit(process, stderr)
            explained = explain_refused_resource(why, setup) or QemuError("the machine", why)
            self._failure = self._failure or explained

    def _virtiofsd_ended(self, tag: str, process: Process, stderr: StderrPipe) -> None:
        """Record a failure unless QEMU has ended too. QEMU without its virtiofsd would hang."""
        self.loop.unwatch(process.pidfd)
        if self._unplugs_shares:
            if process.status():
                self._share_failure = _share_error(tag, process, stderr)
            return
        qemu_is_off = self._qemu is not None and self._qemu.wait(_GRACE_PERIOD) is not None
        if process.status() or not qemu_is_off:
            self._failure = _share_error(tag, process, stderr)
            self.is_off = self._lost_share = True


def _share_error(tag: str, process: Process, stderr: StderrPipe) -> HostError:
    return HostError(f"cannot go on sharing {tag}", _explain_exit(process, stderr))


def _explain_exit(process: Process, stderr: StderrPipe) -> str:
    status = process.status() or 0
    ended = f"exit status {status}" if status >= 0 else f"signal {-status}"
    output = stderr.last_lines()
    return f"{process.name} ended with {ended}" + (f": {output}" if output else "")


@contextmanager
def start_machine(
    launch: Launch, loop: Loop, streams: HostStreams, qemu: QemuStart | None = None
) -> "Iterator[RunningMachine]":
    """Start a machine. It ends with the `with` statement, together with every virtiofsd.

    `qemu`: None boots the machine.
    """
    qemu = qemu or _boot(launch)
    program.check(launch.virtiofsd, launch.setup.shares, root=os.geteuid() == 0)
    with ExitStack() as stack:
        stack.enter_context(lock_disks(launch.setup.disks, os.environ))
        serial = stack.enter_context(SerialPipes())
        machine = RunningMachine(loop, serial, streams, unplugs_shares=qemu.unplugs_shares)
        stack.callback(machine.stop)
        streams, monitor = stack.enter_context(_open_monitor(launch.setup, streams))
        servers = [
            _start_virtiofsd(launch, share, machine, streams, stack)
            for share in launch.setup.shares
        ]
        sockets = tuple(server.connection for server in servers)
        stderr = stack.enter_context(StderrPipe(loop, streams.on_stderr))
        waiting = stack.enter_context(_listen_for_gdb(launch, streams))
        shares = tuple(end.fileno() for end in sockets)
        command = _qemu_program(qemu, streams, waiting, serial, shares)
        ending = _ending_signal(launch)
        guard = stack.enter_context(LoopbackGuard()) if needs_guard(launch.setup) else None
        process = stack.enter_context(_start_qemu(command, stderr, ending, guard, loop))
        machine.watch_qemu(process, stderr, launch.setup)
        stack.callback(loop.unwatch, process.pidfd)
        if monitor:
            _watch_disks(machine, monitor, launch.setup, stack)
        stack.callback(machine.stop)  # before QEMU gets a signal, which it handles after its output
        if qemu.copies_connections:
            machine.shares = [
                stack.enter_context(closing(server.connection.dup())) for server in servers
            ]
        for end in sockets:
            end.close()
        streams.observer.phase_started(qemu.phase)
        if ending == signal.SIGKILL:  # all of them at once: each takes some time to end
            stack.callback(_kill, (process, *(server.process for server in servers)))
        yield machine


@contextmanager
def _start_qemu(
    command: Program, stderr: StderrPipe, ending: int, guard: LoopbackGuard | None, loop: Loop
) -> "Iterator[Process]":
    """Run QEMU inside the `with`; `guard`: what checks its connections, None: nothing does."""
    if guard:
        command = command.replace(before=guard.install)
    with Process(command, stderr.writer, ending) as process:
        if guard:
            guard.watch(loop, process.pid)
        yield process


@contextmanager
def _open_monitor(
    setup: Setup, streams: HostStreams
) -> "Iterator[tuple[HostStreams, socket.socket | None]]":
    """Yield the streams with a monitor, and the host's end; None if it is there or not needed."""
    if streams.monitor >= 0 or not setup.needs_monitor:
        yield streams, None
        return
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield streams.replace(monitor=theirs.fileno()), ours


def _watch_disks(
    machine: RunningMachine, connection: socket.socket, setup: Setup, stack: ExitStack
) -> None:
    from initrd.host.qemu.qmp import Monitor  # noqa: PLC0415 - only with a writable disk

    monitor = Monitor(machine.loop, connection)
    stack.callback(monitor.close)
    end_at_disk_error(machine, monitor, setup.disks)


def end_at_disk_error(
    machine: RunningMachine, monitor: "Monitor", disks: "tuple[Disk, ...]"
) -> None:
    """End the machine with an error when QEMU stops it because a disk cannot be written."""
    monitor.on_disk_stop = lambda drive, why: machine.fail(explain_disk_stop(drive, why, disks))


def needs_guard(setup: Setup) -> bool:
    """Return whether the services on the host's loopback are not for the guest."""
    return setup.network and not setup.reaches_loopback


def _start_virtiofsd(
    launch: Launch,
    share: "Share",
    machine: RunningMachine,
    streams: HostStreams,
    stack: ExitStack,
) -> Server:
    """Start the virtiofsd of a share, which ends with `stack`."""
    stderr = stack.enter_context(StderrPipe(machine.loop, streams.on_stderr))
    server = stack.enter_context(serve_share(launch.virtiofsd, share, stderr))
    machine.watch_virtiofsd(share.tag, server.process, stderr)
    stack.callback(machine.loop.unwatch, server.process.pidfd)
    return server


def _ending_signal(launch: Launch) -> int:
    """Return the signal that ends QEMU; SIGKILL, unless it may have something to write at its end.

    QEMU takes longer to end by SIGTERM. An argument of the user may add a disk image with metadata
    that QEMU has in memory, or a trace.
    """
    return signal.SIGTERM if launch.setup.extra else signal.SIGKILL


def _kill(processes: tuple[Process, ...]) -> None:
    for process in processes:
        process.send(signal.SIGKILL)


def _boot(launch: Launch) -> QemuStart:
    return QemuStart(partial(argv.command, launch.setup), launch.setup.descriptors)


@contextmanager
def _listen_for_gdb(launch: Launch, streams: HostStreams) -> "Iterator[int]":
    """Yield the descriptor of the socket at which QEMU waits for gdb; -1 without --gdb."""
    if launch.gdb is None:
        yield -1
        return
    with gdb.listen(launch.gdb, os.environ) as waiting:
        root = launch.setup.shares[0].source
        vmlinux = gdb.find_vmlinux(launch.kernel, launch.release, root)
        command = gdb.connect_command(waiting.address, vmlinux)
        streams.on_waiting(f"the machine waits for gdb: {command}")
        yield waiting.listener.fileno()


def _qemu_program(
    qemu: QemuStart,
    streams: HostStreams,
    waiting: int,
    serial: SerialPipes,
    shares: tuple[int, ...],
) -> Program:
    """Return QEMU with its inherited descriptors. `shares`: one for each share."""
    connections = Connections(
        console=STDIO_STREAM,
        shares=tuple(map(fd_stream, shares)),
        ports=tuple(map(fd_stream, streams.ports)),
        monitor=fd_stream(streams.monitor) if streams.monitor >= 0 else "",
        gdb=fd_stream(waiting) if waiting >= 0 else "",
    )
    optional = (number for number in (streams.monitor, waiting, *streams.ports) if number >= 0)
    inherited = (*qemu.descriptors, *shares, *optional)
    return Program(qemu.command(connections), inherited, standard=serial.of_qemu)
