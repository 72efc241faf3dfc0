"""Talks to the host in lines, on the control port. The messages are in `docs/command.md`."""

import posix as os

from initrd.command import escape
from initrd.guest._syscalls import POLLERR, POLLHUP, POLLIN, POLLNVAL, POLLOUT
from initrd.text import encode

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

_LONGEST = 4096  # bytes; no message of the host comes near


class ControlPort:
    """The control port: messages go out when the host takes them, and come in as words."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._outgoing = b""
        self._incoming = b""
        self.gone = False  # the host has hung up
        self.bye_received = False  # the host has said `bye`
        self.on_message: Callable[[list[str]], None] = lambda _words: None

    def send(self, message: str, text: str = "") -> None:
        """Send a message, with TEXT as its last word; what the host does not take yet is kept."""
        line = f"{message} {escape(text)}" if text else message
        self._outgoing += encode(line) + b"\n"
        if not self.gone:
            self._transmit()

    def finished(self) -> bool:
        """Tell whether there is nothing to wait for any more: the host knows all, or is gone."""
        return self.gone or self.bye_received

    def wants(self) -> "list[tuple[int, int]]":
        """Return what to poll(2) for."""
        if self.gone:
            return []
        return [(self._fd, POLLIN | (POLLOUT if self._outgoing else 0))]

    def act(self, ready: "dict[int, int]") -> None:
        """Read and write without waiting."""
        events = ready.get(self._fd, 0)
        if events & POLLIN:
            self._receive()
        elif events & (POLLERR | POLLHUP | POLLNVAL):
            self.gone = True
        if self._outgoing and not self.gone:
            self._transmit()

    def _receive(self) -> None:
        try:
            data = os.read(self._fd, _LONGEST)
        except BlockingIOError:
            return
        if not data:
            self.gone = True
        *lines, rest = (self._incoming + data).split(b"\n")
        self._incoming = rest[:_LONGEST]
        for line in lines:
            self._understand(line.decode("utf-8", "replace").split(" "))

    def _understand(self, words: "list[str]") -> None:
        if words == ["bye"]:
            self.bye_received = True
        else:
            self.on_message(words)

    def _transmit(self) -> None:
        try:
            self._outgoing = self._outgoing[os.write(self._fd, self._outgoing) :]
        except BlockingIOError:
            return
        except BrokenPipeError:
            self.gone = True
