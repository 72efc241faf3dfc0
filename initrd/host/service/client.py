"""Run a command in a machine that has an owner: the client's side of `requests`."""

import os
import socket
from contextlib import ExitStack, contextmanager

from initrd.command import Command
from initrd.host.command.protocol import CommandProtocol, LocalStreams
from initrd.host.command.session import KILLED
from initrd.host.image.build import encode_command
from initrd.host.qemu.console import explain_refusal, split_hint
from initrd.host.service.requests import RUN, Request, receive_reply, send_request
from initrd.host.system.hosterror import HostError
from initrd.host.system.loop import WRITABLE, Loop
from initrd.host.system.stream import close_connection, send_now

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_REPLY_TIMEOUT = 5.0  # seconds for the owner to say why the machine has ended


class AttachedSession:
    """A command in a machine of another owner; used as `CommandSession` is."""

    ended_by_escape = "the command"  # by the escape key of a terminal

    def __init__(self, loop: Loop, guest: CommandProtocol, connection: socket.socket) -> None:
        self.loop, self.guest = loop, guest
        self._connection = connection

    @property
    def finished(self) -> bool:
        """Whether nothing more will come from the guest."""
        guest = self.guest
        has_no_streams = guest.final is None or bool(guest.failure or guest.refusal)
        return guest.finished or guest.is_truncated or (guest.disconnected and has_no_streams)

    def wait(self, until: "Callable[[], bool]", seconds: float | None = None) -> bool:
        """Wait for the end of the command, or `until`; return False when `seconds` pass before."""
        return self.loop.run(lambda: self.finished or until(), seconds)

    def status(self, warn: "Callable[[str], object]") -> int:
        """Return the exit status of the command. Raises HostError when there is none."""
        guest = self.guest
        if guest.final is None:
            raise _receive_error(self._connection)
        if guest.failure:
            raise HostError("cannot run the command", *split_hint(guest.failure))
        if guest.refusal:
            raise explain_refusal(guest.refusal)
        if guest.is_truncated:
            raise HostError("the command's output is not all there", "the machine has ended")
        status = guest.status()
        if status == KILLED:
            self._warn_of_oom_kill(warn)
        if guest.output_error and not status:
            raise HostError("the command's output is not all there", guest.output_error)
        return status

    def _warn_of_oom_kill(self, warn: "Callable[[str], object]") -> None:
        """Warn if the guest ran out of memory while the command ran; the owner has the console."""
        self._connection.settimeout(_REPLY_TIMEOUT)
        try:
            text = receive_reply(self._connection).get("oom_kill")
        except (HostError, TimeoutError):  # the machine has ended meanwhile
            return
        if text:
            warn(text)

    def kill(self) -> None:
        """Kill all processes of the command's session."""
        self.guest.send("kill")


def _receive_error(connection: socket.socket) -> HostError:
    """Return why the owner does not run the command, or no longer."""
    connection.settimeout(_REPLY_TIMEOUT)
    try:
        receive_reply(connection)
    except TimeoutError:
        pass
    except HostError as error:
        return error
    return HostError("the command has no status", "the machine does not say why")


@contextmanager
def attach(
    connection: socket.socket, command: Command, local: LocalStreams, loop: Loop
) -> "Iterator[AttachedSession]":
    """Run a command in the machine of the owner that `connection` leads to. Raises HostError.

    At the end of the `with` a command that has not ended gets SIGHUP, and the connection is closed.
    """
    content = encode_command(command)
    with ExitStack() as stack:
        stack.callback(close_connection, connection)
        pairs = {name: socket.socketpair() for name in command.ports}
        for pair in pairs.values():
            for end in pair:
                stack.callback(close_connection, end)
        names = tuple(name.removeprefix("initrd.") for name in pairs)
        shown = os.fsdecode(b" ".join(command.argv))
        request = Request(RUN, names, len(content), shown.encode(errors="replace").decode()[:1000])
        try:
            send_request(connection, request, *(end.fileno() for _, end in pairs.values()))
        except OSError as error:
            raise _receive_error(connection) from error
        for _, owner_end in pairs.values():
            owner_end.close()  # the owner has a copy
        guest = CommandProtocol(loop, {name: end for name, (end, _) in pairs.items()}, local)
        stack.callback(guest.close)
        _send_content(loop, connection, content)
        stack.callback(loop.unwatch, connection.fileno())
        yield AttachedSession(loop, guest, connection)


def _send_content(loop: Loop, connection: socket.socket, content: bytes) -> None:
    """Send a command file while the loop runs: an owner reads it when its machine is up."""
    remaining = memoryview(content)

    def send(_: int) -> None:
        nonlocal remaining
        remaining = remaining[send_now(connection, remaining) :]
        if not remaining:
            loop.unwatch(connection.fileno())

    loop.watch(connection.fileno(), WRITABLE, send)
    send(0)
