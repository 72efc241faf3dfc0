"""QEMU's machine protocol, QMP: send commands, handle replies and events, in a loop.

QEMU executes the commands in their order. The first that fails is reported; the caller can wait
until there is a reply to each of them.

Source: QEMU's `docs/interop/qmp-spec.txt` and `qapi/` schemas.
"""

import json
import socket
import struct

from initrd.host.system.loop import READABLE, Loop
from initrd.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

_READ_SIZE = 1 << 16  # bytes
_MAX_MESSAGE = 1 << 20  # bytes; those for these commands have some hundred
_INVALID = "QEMU has sent an invalid message"
# QEMU sends the state of the devices, and not the memory, which is a file: VM templates are made
# in this way. Source: QEMU's docs/system/vm-templating.rst.
_CAPABILITIES = ("x-ignore-shared", "events")


class _Message(Record):
    """What a message of QEMU says. The texts are empty where it says nothing of the kind."""

    migration: str = ""  # the status of a migration
    error: str = ""
    is_reply: bool = False  # to a command
    stopped: tuple[str, str] | None = None  # by an error of a disk: its back end, the reason


class Monitor:
    """One end of a QMP connection."""

    def __init__(self, loop: Loop, connection: socket.socket) -> None:
        self._loop, self._connection = loop, connection
        self._incoming = b""
        self.error = ""  # of the first command that failed
        self.migration = ""  # the latest status of a migration
        self.unanswered = 0  # commands without a reply
        self.on_error: Callable[[str], object] = lambda _: None
        self.on_disk_stop: Callable[[str, str], object] = lambda *_: None
        loop.watch(connection.fileno(), READABLE, self._on_readable)
        self.execute("qmp_capabilities")

    def execute(self, command: str, **arguments: "Any") -> None:
        """Send a command."""
        self._send(_request(command, arguments))

    def close(self) -> None:
        """Stop reading. The caller closes the connection."""
        self._loop.unwatch(self._connection.fileno())

    def start_saving(self, descriptor: int) -> None:
        """Save the state of the devices to a descriptor; `migration` becomes `completed`."""
        self._enable_migration()
        request = _request("getfd", {"fdname": "state"})
        rights = struct.pack("i", descriptor)
        self._send(request, [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)])
        self.execute("migrate", uri="fd:state")

    def start_loading(self, descriptor: int) -> None:
        """Load a state from a descriptor that QEMU has inherited."""
        self._enable_migration()
        self.execute("migrate-incoming", uri=f"fd:{descriptor}")

    def _enable_migration(self) -> None:
        names = [{"capability": name, "state": True} for name in _CAPABILITIES]
        self.execute("migrate-set-capabilities", capabilities=names)

    def _send(self, request: bytes, rights: "Sequence[tuple[int, int, bytes]]" = ()) -> None:
        """Send a request; descriptors go with its beginning, as `sendmsg` takes them."""
        self.unanswered += 1
        try:
            sent = self._connection.sendmsg([request], rights)
            self._connection.sendall(request[sent:])
        except (BrokenPipeError, ConnectionResetError):  # QEMU has ended, which its owner notices
            pass

    def _on_readable(self, _: int) -> None:
        try:
            data = self._connection.recv(_READ_SIZE)
        except ConnectionResetError:
            data = b""
        if not data:
            self.close()
        *lines, self._incoming = (self._incoming + data).split(b"\n")
        for line in lines:
            self._handle(line)
        if len(self._incoming) > _MAX_MESSAGE:
            self._fail(_INVALID)
            self.close()

    def _handle(self, line: bytes) -> None:
        message = _parse(line)
        self.migration = message.migration or self.migration
        self.unanswered -= message.is_reply
        if message.error:
            self._fail(message.error)
        if message.stopped:
            self.on_disk_stop(*message.stopped)

    def _fail(self, error: str) -> None:
        if not self.error:
            self.error = error
            self.on_error(error)


def _parse(line: bytes) -> _Message:
    try:
        message = json.loads(line)
        if message.get("event"):
            return _parse_event(message["event"], message.get("data"))
        error = (str(message["error"]["desc"]) or _INVALID) if "error" in message else ""
        return _Message(error=error, is_reply=bool(error) or "return" in message)
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return _Message(error=_INVALID)


def _parse_event(name: str, data: "Any") -> _Message:
    """Return what an event says: BLOCK_IO_ERROR of qapi/block-core.json, MIGRATION."""
    if name == "MIGRATION":
        return _Message(migration=str(data["status"]))
    if name == "BLOCK_IO_ERROR" and data["action"] == "stop":
        return _Message(stopped=(str(data["device"]), str(data["reason"])))
    return _Message()


def _request(command: str, arguments: "dict[str, Any]") -> bytes:
    return json.dumps({"execute": command, "arguments": arguments}).encode() + b"\n"
