"""The owner of a machine with a name, as a process of its own."""

import os
import signal
import socket
import sys
from contextlib import ExitStack, closing

from initrd.host.machine.launch import Launch
from initrd.host.machine.run import HostStreams
from initrd.host.machine.traceback_file import Mistake, explain_mistakes
from initrd.host.qemu.diskerror import DiskError
from initrd.host.service.names import hold_name, open_names
from initrd.host.service.owner import About, own_machine
from initrd.host.service.requests import encode_error, receive_reply
from initrd.host.system.deadline import TimeUp
from initrd.host.system.hosterror import HostError
from initrd.host.system.loop import Cancelled, Limit, Loop, Signals
from initrd.host.system.process import explain_shortage, fork
from initrd.host.system.stream import Sink, send_now
from initrd.host.system.terminal import STDERR, STDIN, STDOUT, MessageWriter

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import NoReturn, Self

_IGNORED_SIGNALS = (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT)


class Daemon:
    """A process that owns a machine. Its parent has the connection of the first client."""

    def __init__(self, launch: Launch, about: About, *, detached: bool, verbose: bool) -> None:
        """Start the process. `detached`: the machine stays when its first client has gone."""
        self.connection, theirs = socket.socketpair()
        self._ended, at_end = socket.socketpair()  # for an error after the end of the command
        self._detached = detached
        sys.stdout.flush()
        self.pid = fork()
        if not self.pid:
            self.connection.close()
            self._ended.close()
            _run(launch, about, (theirs, at_end), detached=detached, verbose=verbose)
        theirs.close()
        at_end.close()
        for descriptor in launch.setup.descriptors:
            os.close(descriptor)

    def __enter__(self) -> "Self":
        return self

    def __exit__(self, _type: object, error: BaseException | None, _traceback: object) -> None:
        """Close the connection. Wait for the end of a machine that is not detached.

        With TimeUp, then or before, the process is killed, and the machine with it. Raises
        HostError when that machine could not write all changes to its disks.
        """
        self.connection.close()
        with self._ended:
            if self._detached:
                return
            if isinstance(error, TimeUp):
                os.kill(self.pid, signal.SIGKILL)
            try:
                os.waitpid(self.pid, 0)
            except TimeUp:
                os.kill(self.pid, signal.SIGKILL)
                os.waitpid(self.pid, 0)
                raise
            if self._ended.recv(1, socket.MSG_PEEK):
                receive_reply(self._ended)


def _run(
    launch: Launch,
    about: About,
    ends: tuple[socket.socket, socket.socket],
    *,
    detached: bool,
    verbose: bool,
) -> "NoReturn":
    """Own the machine, and end this process.

    `ends`: of the connection of the first client, and of that for an error after its command.
    """
    status, (connection, at_end) = 1, ends
    try:
        _leave_parent((connection.fileno(), at_end.fileno(), *launch.setup.descriptors))
        try:
            with explain_mistakes("chrootvm", os.environ), explain_shortage():
                _own(launch, about, connection, detached=detached, verbose=verbose)
            status = 0
        except Cancelled:  # the parent has gone
            pass
        except HostError as error:
            if connection.fileno() >= 0:  # else the owner has told all clients
                send_now(connection, encode_error(error))
            elif isinstance(error, DiskError):  # that wait for a status, but not for the end
                send_now(at_end, encode_error(error))
            elif isinstance(error, Mistake):  # the clients know only that the machine has ended
                MessageWriter().print_error(error)
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        os._exit(status)


def _leave_parent(needed: tuple[int, ...]) -> None:
    """Become independent of the parent's session, terminal and open files."""
    os.setsid()
    for number in _IGNORED_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in (STDIN, STDOUT):
        os.dup2(null, descriptor)
    keep = {STDIN, STDOUT, STDERR, *needed}
    for name in os.listdir("/proc/self/fd"):
        if int(name) not in keep:
            try:
                os.close(int(name))
            except OSError:  # the descriptor of the directory itself
                pass


def _own(
    launch: Launch, about: About, connection: socket.socket, *, detached: bool, verbose: bool
) -> None:
    loop = Loop()
    with ExitStack() as stack:
        enter = stack.enter_context
        messages = enter(closing(MessageWriter(loop)))
        listener = enter(hold_name(enter(open_names(os.environ)), about.name))
        signals = enter(Signals(loop))
        console = enter(closing(Sink(STDERR)))
        has_parent_gone = _watch_parent(loop, connection)
        limit = Limit(None, lambda: has_parent_gone() or bool(signals.received))
        streams = HostStreams(limit=limit)
        if verbose:
            streams = streams.replace(
                output=console, on_stderr=messages.print_output_of, on_note=messages.print_message
            )
        owner = enter(own_machine(launch, about, loop, streams, messages.print_message))
        signals.on_signal = lambda number: owner.stop() if number == signal.SIGTERM else None
        owner.add_listener(listener)
        owner.add_client(connection, keeps_machine=not detached)
        if detached:
            messages.close()
            _leave_standard_error(console)
            os.chdir("/")  # so that the file system of the directory can be unmounted
        owner.serve()


def _watch_parent(loop: Loop, connection: socket.socket) -> "Callable[[], bool]":
    """Return a function that returns whether the parent has gone, as long as `loop` runs."""
    gone: list[int] = []

    def on_hang_up(events: int) -> None:
        gone.append(events)
        loop.unwatch(connection.fileno())

    loop.watch(connection.fileno(), 0, on_hang_up)
    return lambda: bool(gone)


def _leave_standard_error(console: Sink) -> None:
    with open(os.devnull, "wb") as null:
        for descriptor in (STDERR, console.descriptor):
            os.dup2(null.fileno(), descriptor)
