"""Runs a machine: QEMU, a virtiofsd for each directory, and the streams between them and us.

Everything is started in a `with` and gone when that ends, whatever ends it. virtiofsd and QEMU
start at the same time; neither waits for a file or for a socket's name to appear.
"""

import os
import socket
from contextlib import ExitStack, closing, contextmanager

from initrd.errors import HostError
from initrd.host.machine.launch import Launch
from initrd.host.machine.overlayfile import lock_overlay_files
from initrd.host.qemu import argv
from initrd.host.qemu.console import ConsoleLog, Ending, parse_ending
from initrd.host.system.loop import READABLE, Loop
from initrd.host.system.process import Process, Program
from initrd.host.system.stream import Relay, Sink, StderrPipe
from initrd.host.virtiofsd import program
from initrd.host.virtiofsd.serve import serve_share
from initrd.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

# What begins; each ends what came before.
PHASE_PREPARE, PHASE_START, PHASE_KERNEL = (
    "find files, make the image",
    "start the programs",
    "QEMU and its firmware",
)
PHASE_COMMAND, PHASE_END = "command", "power off"
_GRACE = 2.0  # seconds that QEMU has to end when a virtiofsd has, and its console to be read


class BootObserver:
    """Told what happens. This one does not listen."""

    def mark(self, name: str) -> None:
        """Something begins: what came before is over."""

    def see(self, data: bytes) -> None:
        """The guest has printed something on its console."""


class Connections(Record):
    """What a machine is connected to, apart from its console."""

    output: Sink | None = None  # gets what the console prints
    menu: bool = False  # Ctrl-A on the console is QEMU's
    ports: tuple[tuple[str, int], ...] = ()  # by name: descriptors that QEMU inherits
    monitor: int = -1  # one more, for QMP; -1: none
    watch: BootObserver = BootObserver()
    hear: "Callable[[bytes], object]" = staticmethod(lambda _: None)  # what the programs say


class RunningMachine:
    """A machine that runs; `running` makes it."""

    def __init__(self, loop: Loop, console: socket.socket, streams: Connections) -> None:
        self.loop = loop
        self.console = console  # what is sent there is typed in the guest
        self.log = ConsoleLog()
        self.over = False  # it does no more
        self._watch = streams.watch
        self._output = Relay(loop, console.fileno(), streams.output, self._see)
        self._failure: HostError | None = None
        self._qemu: Process | None = None

    def _see(self, data: bytes) -> None:
        self.log.see(data)
        self._watch.see(data)

    def wait(self, seconds: float | None = None) -> bool:
        """Wait until the machine is off, or for so long; return whether it is off."""
        return self.loop.run(lambda: self.over, seconds)

    def ending(self) -> Ending:
        """Return how the guest ended. Raises HostError when something else ended."""
        if self._failure:
            raise self._failure
        self.loop.run(lambda: self._output.ended, _GRACE)
        return parse_ending(self.log.text)

    def stop(self) -> None:
        """Stop listening to the console."""
        self._output.stop()

    def know_qemu(self, process: Process, words: StderrPipe) -> None:
        """Notice when QEMU ends: it does when the guest powers off."""
        self._qemu = process
        self.loop.watch(process.pidfd, READABLE, lambda _: self._qemu_ended(process, words))

    def know_server(self, tag: str, process: Process, words: StderrPipe) -> None:
        """Notice when a virtiofsd ends."""
        self.loop.watch(process.pidfd, READABLE, lambda _: self._server_ended(tag, process, words))

    def _qemu_ended(self, process: Process, words: StderrPipe) -> None:
        self.loop.ignore(process.pidfd)
        self.over = True
        if process.status():
            self._failure = self._failure or _ended("the machine", process, words)

    def _server_ended(self, tag: str, process: Process, words: StderrPipe) -> None:
        """When QEMU ends so does virtiofsd. Without virtiofsd QEMU would stand still for ever."""
        self.loop.ignore(process.pidfd)
        qemu_is_off = self._qemu is not None and self._qemu.wait(_GRACE) is not None
        if process.status() or not qemu_is_off:
            self._failure = _ended(f"cannot go on sharing {tag}", process, words)
            self.over = True


def _ended(what: str, process: Process, words: StderrPipe) -> HostError:
    status = process.status() or 0
    how = f"exit status {status}" if status >= 0 else f"signal {-status}"
    said = words.last()
    return HostError(what, f"{process.name} ended with {how}" + (f": {said}" if said else ""))


@contextmanager
def start_machine(launch: Launch, loop: Loop, streams: Connections) -> "Iterator[RunningMachine]":
    """Start a machine; when the `with` ends it is gone, with all that belongs to it."""
    directories = (directory for _, directory in launch.directories)
    program.check(launch.virtiofsd, directories, root=os.geteuid() == 0)
    with ExitStack() as stack:
        enter = stack.enter_context
        enter(lock_overlay_files(launch.disks, os.environ))
        ours, theirs = (enter(closing(end)) for end in socket.socketpair())
        machine = RunningMachine(loop, ours, streams)
        stack.callback(machine.stop)
        shares = []
        for tag, directory in launch.directories:
            words = enter(StderrPipe(loop, streams.hear))
            share = enter(serve_share(launch.virtiofsd, tag, directory, words))
            machine.know_server(tag, share.process, words)
            stack.callback(loop.ignore, share.process.pidfd)
            shares.append(share)
        sockets = {share.tag: share.connection for share in shares}
        words = enter(StderrPipe(loop, streams.hear))
        process = enter(Process(_qemu(launch, streams, theirs, sockets), words.writer))
        machine.know_qemu(process, words)
        stack.callback(loop.ignore, process.pidfd)
        for end in (theirs, *sockets.values()):
            end.close()
        streams.watch.mark(PHASE_KERNEL)
        yield machine


def _qemu(
    launch: Launch, streams: Connections, console: socket.socket, shares: dict[str, socket.socket]
) -> Program:
    """Return QEMU, and the descriptors that it inherits."""
    setup = launch.setup(
        argv.Console(argv.descriptor(console.fileno()), streams.menu),
        tuple(
            argv.Filesystem(tag, argv.descriptor(connection.fileno()))
            for tag, connection in shares.items()
        ),
        initrd=_inherited(launch.image.descriptor),
        kernel=_inherited(launch.direct.elf),
    )
    setup = setup.replace(
        ports=tuple(argv.Port(name, argv.descriptor(number)) for name, number in streams.ports),
        monitor=argv.descriptor(streams.monitor) if streams.monitor >= 0 else "",
    )
    sockets = (connection.fileno() for connection in (console, *shares.values()))
    numbers = (
        *launch.files(),
        streams.monitor,
        *sockets,
        *(number for _, number in streams.ports),
    )
    return Program(argv.command(setup), tuple(number for number in numbers if number >= 0))


def _inherited(number: int) -> str:
    """Return a path that is an inherited descriptor; empty for none."""
    return f"/proc/self/fd/{number}" if number >= 0 else ""
