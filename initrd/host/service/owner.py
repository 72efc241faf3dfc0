"""The owner of a machine that runs several commands: it serves clients as long as the machine runs.

Everything happens in one loop, in one thread. Only clients of the same user are served: they have
the owner's socket from a private directory, or from the owner's own process.
"""

import os
import resource
import socket
import time
from contextlib import ExitStack, closing, contextmanager

from initrd.errors import reason
from initrd.frames import MAX_RUN
from initrd.host.command.protocol import GuestWarnings, LocalStreams, read_text, time_message
from initrd.host.command.session import CommandSession, start_session
from initrd.host.machine.launch import Launch
from initrd.host.machine.run import HostStreams
from initrd.host.qemu.console import split_hint
from initrd.host.qemu.diskerror import DiskError
from initrd.host.service.mux import Port
from initrd.host.service.requests import (
    INFO,
    MAX_DESCRIPTORS,
    MAX_LINE,
    RUN,
    STOP,
    Request,
    encode_error,
    encode_reply,
    parse_request,
)
from initrd.host.system.hosterror import HostError
from initrd.host.system.loop import READABLE, WRITABLE, Loop
from initrd.host.system.stream import close_connection, send_now
from initrd.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

# Seconds for the guest to end its processes and to unmount; then the machine is switched off.
_STOP_TIMEOUT = 25.0
_POWER_OFF_TIMEOUT = 2.0
_DELIVERY_TIMEOUT = 1.0  # seconds for clients to take the last output when the machine has ended
_RESERVED_DESCRIPTORS = 64  # of the owner, besides those of its clients


class About(Record):
    """What clients are told about a machine."""

    name: str  # empty: none
    root: str
    kernel: str  # release


class Owner:
    """Serves the clients of one running machine."""

    def __init__(
        self,
        session: CommandSession,
        about: About,
        warn: "Callable[[str], object]" = lambda _: None,
    ) -> None:
        """`session`: of a machine whose guest has sent `frames`; `warn`: for text of the guest."""
        self.loop = session.loop
        self._session, self._about, self._warnings = session, about, GuestWarnings(warn)
        connection, received = session.guest.take_over()
        self._port = Port(self.loop, connection)
        self._port.on_message, self._port.on_end = self._on_message, self._on_end
        self._port.on_error = self._on_error
        self._clients: list[Client] = []
        self._since = time.time()
        self._is_stopping = False  # the guest was asked to end the machine
        self._failure: HostError | None = None
        self._is_stopped = False
        self._port.receive(received)

    def add_listener(self, listener: socket.socket) -> None:
        """Serve those who connect to a listening socket."""

        def accept(_: int) -> None:
            try:
                connection, _address = listener.accept()
            except (BlockingIOError, ConnectionAbortedError):
                return
            if len(self._clients) < most:
                self.add_client(connection)
                return
            why = f"it serves {most} clients already"
            with connection:
                connection.send(encode_error(HostError("cannot use the machine", why)))

        most = _most_clients()
        listener.setblocking(False)
        self.loop.watch(listener.fileno(), READABLE, accept)

    def add_client(self, connection: socket.socket, *, keeps_machine: bool = False) -> None:
        """Serve a client. `keeps_machine`: the machine ends with it."""
        self._clients.append(Client(self, connection, keeps_machine=keeps_machine))

    def serve(self) -> None:
        """Serve until the machine has ended. Raises HostError if it did not end as it should."""
        machine = self._session.machine
        self.loop.run(lambda: self._is_over() or self._is_stopping)
        self.loop.run(self._is_over, _STOP_TIMEOUT)
        if self._is_stopped:
            self._port.send_message("bye")
            machine.wait(_POWER_OFF_TIMEOUT)
        elif not self._is_stopping or machine.disk_error:
            self._failure = self._failure or self._session.find_error()
        self.loop.run(lambda: self._port.is_delivered, _DELIVERY_TIMEOUT)

    def close(self) -> None:
        """Tell all clients that the machine has ended, and why."""
        self._port.close()
        for client in tuple(self._clients):
            client.end(self._failure)
        if self._failure:
            raise self._failure

    def stop(self) -> None:
        """Begin to end the machine: the guest ends all processes, and unmounts."""
        if not self._is_stopping:
            self._is_stopping = True
            self._port.send_message("stop")

    def run(self, content: bytes, sockets: dict[str, socket.socket]) -> int:
        """Run a command; return its number. Raises HostError."""
        if self._is_stopping:
            raise HostError("cannot run the command", "the machine is about to end")
        self._port.send_message(time_message())
        return self._port.run(content, sockets)

    def console_size(self) -> int:
        """Return how many bytes the console has printed so far."""
        return self._session.machine.log.size

    def describe(self) -> bytes:
        """Return the reply to INFO."""
        commands = [client.shown for client in self._clients if client.number]
        about = self._about
        return encode_reply(
            name=about.name,
            root=about.root,
            kernel=about.kernel,
            since=self._since,
            owner=os.getpid(),
            commands=commands,
        )

    def remove(self, client: "Client") -> None:
        """Forget a client that has gone."""
        self._clients.remove(client)
        if client.number:
            self._port.close_command(client.number)
        if client.keeps_machine:
            self.stop()

    def _is_over(self) -> bool:
        return self._session.machine.is_off or self._is_stopped or self._failure is not None

    def _on_end(self, number: int) -> None:
        for client in self._clients:
            if client.number == number:
                client.report_end(self._session.explain_oom_kill(client.console_position))

    def _on_message(self, line: str) -> None:
        word, _, text = line.partition(" ")
        if word == "stopped":
            self._is_stopped = True
        elif word == "failed":
            self._fail(HostError("the machine has ended", *split_hint(read_text(text))))
        elif word == "warning":
            self._warnings.add(text)

    def _on_error(self, why: str) -> None:
        self._fail(HostError("cannot understand the guest", why))

    def _fail(self, error: HostError) -> None:
        self._failure = self._failure or error


class Client:
    """One connection to the owner: one request, and its reply."""

    def __init__(self, owner: Owner, connection: socket.socket, *, keeps_machine: bool) -> None:
        self._owner, self._connection = owner, connection
        self._received, self._unsent = b"", b""
        self._descriptors: list[int] = []
        self._request: Request | None = None
        self._is_answered = False
        self.keeps_machine = keeps_machine
        self.number = 0  # of its command; 0: none
        self.console_position = 0  # size of the console's log when the command began
        owner.loop.watch(connection.fileno(), READABLE, self._on_events)

    @property
    def shown(self) -> str:
        """The command, for people."""
        return self._request.shown if self._request else ""

    def end(self, error: HostError | None) -> None:
        """Answer for the last time: the machine has ended."""
        asked_to_stop = self._request is not None and self._request.kind == STOP
        if asked_to_stop and not isinstance(error, DiskError):
            self._send(encode_reply(stopped=True))
        else:
            why = "it was stopped"
            self._send(encode_error(error or HostError("the machine has ended", why)))
        self._close()

    def report_end(self, oom_kill: str) -> None:
        """Answer that the command has ended; `oom_kill`: what the kernel has killed meanwhile."""
        self.number = 0
        self._send(encode_reply(oom_kill=oom_kill))

    def _on_events(self, events: int) -> None:
        if events & WRITABLE:
            self._transmit()
        if events & ~WRITABLE:
            self._read()

    def _read(self) -> None:
        try:
            data, descriptors, _flags, _address = socket.recv_fds(
                self._connection, MAX_LINE, MAX_DESCRIPTORS, socket.MSG_DONTWAIT
            )
        except BlockingIOError:
            return
        except ConnectionResetError:
            data, descriptors = b"", []
        self._descriptors += descriptors
        if not data:
            self._leave()
            return
        self._received += data
        try:
            self._handle()
        except HostError as error:
            self._send(encode_error(error))
            self._leave()

    def _leave(self) -> None:
        self._close()
        self._owner.remove(self)

    def _handle(self) -> None:
        """Act on the request as soon as it is complete. Raises HostError."""
        if self._request is None:
            line, newline, rest = self._received.partition(b"\n")
            if len(line) > MAX_LINE or len(self._descriptors) > MAX_DESCRIPTORS:
                raise HostError("cannot understand the client", "its request is too long")
            if not newline:
                return
            self._request, self._received = parse_request(line), rest
            if self._request.size > MAX_RUN:
                raise HostError("cannot run the command", "its arguments are too long")
        if self._is_answered:
            raise HostError("cannot understand the client", "it sends more than one request")
        if len(self._received) >= self._request.size:
            self._is_answered = True
            self._answer(self._request)

    def _answer(self, request: Request) -> None:
        if request.kind == INFO:
            self._send(self._owner.describe())
        elif request.kind == STOP:
            self._owner.stop()
        elif request.kind == RUN:
            if len(request.channels) != len(self._descriptors):
                raise HostError("cannot understand the client", "descriptors are missing")
            with ExitStack() as stack:
                ends = [stack.enter_context(self._take_socket()) for _ in request.channels]
                sockets = dict(zip(request.channels, ends, strict=True))
                self.console_position = self._owner.console_size()
                self.number = self._owner.run(self._received[: request.size], sockets)
                stack.pop_all()
            self._received = b""

    def _take_socket(self) -> socket.socket:
        """Return the next descriptor as a connected stream socket. Raises HostError for others."""
        with ExitStack() as stack:
            descriptor = self._descriptors.pop(0)
            closing_descriptor = stack.enter_context(ExitStack())
            closing_descriptor.callback(os.close, descriptor)
            try:
                end = stack.enter_context(socket.socket(fileno=descriptor))
                closing_descriptor.pop_all()
                end.getpeername()  # raises an error for a socket without a connection
            except OSError as error:
                why = f"it has sent a descriptor that is no connection: {reason(error)}"
                raise HostError("cannot understand the client", why) from error
            if (end.family, end.type) != (socket.AF_UNIX, socket.SOCK_STREAM):
                why = "it has sent a socket that is no stream of unix(7)"
                raise HostError("cannot understand the client", why)
            stack.pop_all()
        return end

    def _send(self, data: bytes) -> None:
        """Send a reply: now as much as the client's socket takes, the rest later."""
        if self._connection.fileno() < 0:  # the client has gone
            return
        self._unsent += data
        self._transmit()

    def _transmit(self) -> None:
        self._unsent = self._unsent[send_now(self._connection, self._unsent) :]
        events = READABLE | (WRITABLE if self._unsent else 0)
        self._owner.loop.watch(self._connection.fileno(), events, self._on_events)

    def _close(self) -> None:
        self._owner.loop.unwatch(self._connection.fileno())
        close_connection(self._connection)
        for descriptor in self._descriptors:
            os.close(descriptor)
        self._descriptors.clear()


def _most_clients() -> int:
    """Return how many clients the limit of open files allows, each with one command."""
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if limit == resource.RLIM_INFINITY:
        limit = 1 << 20
    return max(1, (limit - _RESERVED_DESCRIPTORS) // (1 + MAX_DESCRIPTORS))


@contextmanager
def own_machine(
    launch: Launch, about: About, loop: Loop, streams: HostStreams, warn: "Callable[[str], object]"
) -> "Iterator[Owner]":
    """Start the machine of `launch`, whose command is `Commands`. Raises HostError; Cancelled.

    The machine ends with the `with`.
    """
    with ExitStack() as stack:
        local = LocalStreams(on_warning=warn)
        session = stack.enter_context(start_session(launch, local, loop, streams))
        guest, machine = session.guest, session.machine
        streams.limit.wait(
            loop, lambda: guest.has_frames or guest.final is not None or machine.is_off
        )
        if not guest.has_frames:
            session.status(warn)  # raises the error
            raise HostError("the boot failed", "the guest does not run several commands")
        with closing(Owner(session, about, warn)) as owner:
            yield owner
