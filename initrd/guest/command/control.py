"""The messages of `docs/command.md` in the guest: send, receive, and the port that carries them."""

import posix as os

from initrd.command import escape
from initrd.guest._syscalls import POLLERR, POLLHUP, POLLIN, POLLNVAL, POLLOUT
from initrd.text import encode, parse_natural

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

_MAX_MESSAGE = 4096  # bytes; the host's messages are much shorter
_MAX_TIME = 1 << 53  # microseconds: later times are not accepted by the kernel


def parse_time(words: "list[str]") -> "int | None":
    """Return the host's time in a message `time`, in microseconds since 1970; None for others."""
    if len(words) != 2 or words[0] != "time":
        return None
    microseconds = parse_natural(words[1])
    return None if microseconds is None or microseconds > _MAX_TIME else microseconds


class Messages:
    """Lines of words, in both directions. A subclass transports the bytes."""

    def __init__(self) -> None:
        self._outgoing = b""
        self._incoming = b""
        self.disconnected = False  # the host has closed its end
        self.bye_received = False
        self._early: list[list[str]] = []  # messages that nobody has handled yet
        self.on_message: Callable[[list[str]], None] = self._early.append
        self.on_time: Callable[[int], None] = lambda _microseconds: None  # the host's, since 1970

    def handle_early(self) -> None:
        """Pass the messages that came before `on_message` was set to it."""
        early, self._early = self._early, []
        for words in early:
            self.on_message(words)

    def send(self, message: str, text: str = "") -> None:
        """Send a message, with `text` escaped as its last word. Does not block.

        Bytes that the transport does not accept yet are kept until it does.
        """
        line = f"{message} {escape(text)}" if text else message
        self._outgoing += encode(line) + b"\n"
        if not self.disconnected:
            self._transmit()

    @property
    def is_sent(self) -> bool:
        """Whether the transport has accepted all messages."""
        return not self._outgoing

    def is_finished(self) -> bool:
        """Return whether the host has sent `bye` or has disconnected."""
        return self.disconnected or self.bye_received

    def _receive(self, data: bytes) -> None:
        *lines, rest = (self._incoming + data).split(b"\n")
        self._incoming = rest[:_MAX_MESSAGE]
        for line in lines:
            self._dispatch(line.decode("utf-8", "replace").split(" "))

    def _dispatch(self, words: "list[str]") -> None:
        if words == ["bye"]:
            self.bye_received = True
        elif words[0] == "time":
            microseconds = parse_time(words)
            if microseconds is not None:
                self.on_time(microseconds)
        else:
            self.on_message(words)

    def _transmit(self) -> None:
        """Send as much of `_outgoing` as possible without blocking."""
        raise NotImplementedError


class ControlPort(Messages):
    """Messages on a non-blocking descriptor. A handler of `Loop`."""

    def __init__(self, fd: int) -> None:
        super().__init__()
        self._fd = fd

    def poll_entries(self) -> "list[tuple[int, int]]":
        """Return the descriptor and its events for poll(2)."""
        if self.disconnected:
            return []
        return [(self._fd, POLLIN | (POLLOUT if self._outgoing else 0))]

    def handle_events(self, ready: "dict[int, int]") -> None:
        """Read and write without blocking."""
        events = ready.get(self._fd, 0)
        if events & POLLIN:
            self._read()
        elif events & (POLLERR | POLLHUP | POLLNVAL):
            self.disconnected = True
        if self._outgoing and not self.disconnected:
            self._transmit()

    def _read(self) -> None:
        try:
            data = os.read(self._fd, _MAX_MESSAGE)
        except BlockingIOError:
            return
        if not data:
            self.disconnected = True
        self._receive(data)

    def _transmit(self) -> None:
        try:
            self._outgoing = self._outgoing[os.write(self._fd, self._outgoing) :]
        except BlockingIOError:
            return
        except BrokenPipeError:
            self.disconnected = True
