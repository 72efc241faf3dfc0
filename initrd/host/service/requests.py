"""The requests of a client to the owner of a machine, and the replies: on a unix socket.

A request is a line of JSON; for `run`, the command file of docs/command.md follows, and the sockets
for the command's channels come with the line as descriptors (SCM_RIGHTS). A reply is a line of
JSON. The socket stays open as long as the client wants the result. Both are of the same version.
"""

import json
import socket

from initrd.frames import CHANNELS, CONTROL
from initrd.host.qemu.console import KernelPanic
from initrd.host.system.hosterror import HostError
from initrd.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

VERSION = 1
RUN, INFO, STOP = "run", "info", "stop"
MAX_LINE = 1 << 16  # bytes
MAX_DESCRIPTORS = len(CHANNELS)


class Request(Record):
    """A request. The fields after `kind` are those of RUN."""

    kind: str
    channels: tuple[str, ...] = ()  # names, in the order of the descriptors
    size: int = 0  # bytes of the command file that follows
    shown: str = ""  # the command, for people


def send_request(connection: socket.socket, request: Request, *descriptors: int) -> None:
    """Send the line of a request, with descriptors. Raises OSError."""
    fields = {"version": VERSION, **{name: getattr(request, name) for name in Request._fields}}
    line = json.dumps(fields).encode() + b"\n"
    sent = socket.send_fds(connection, [line], descriptors)
    connection.sendall(line[sent:])


def parse_request(line: bytes) -> Request:
    """Return the request of a line. Raises HostError for what this version does not know."""
    fields = _parse(line)
    if fields.pop("version", 0) != VERSION:
        raise HostError("cannot understand the client", f"it is not of version {VERSION}")
    try:
        request = Request(**{**fields, "channels": tuple(fields.get("channels", ()))})
    except TypeError as error:
        raise HostError("cannot understand the client", str(error)) from error
    why = _find_error(request)
    if why:
        raise HostError("cannot understand the client", why)
    return request


def _find_error(request: Request) -> str:
    """Return what is wrong with the fields of a request; empty if nothing is."""
    if request.kind not in (RUN, INFO, STOP):
        return f"it asks for {request.kind!r}"
    if not _is_type(request.size, int) or request.size < 0:
        return f"{request.size!r} is no number of bytes"
    if not _is_type(request.shown, str):
        return f"{request.shown!r} is no text"
    names = request.channels
    if any(name not in CHANNELS or names.count(name) > 1 for name in names):
        return f"{names!r} are not the channels of a command"
    if request.kind == RUN and CONTROL not in names:
        return f"a command needs the channel {CONTROL}"
    return ""


def _is_type(value: object, expected: type) -> bool:
    """Return whether a field has the type that `Request` declares: the client may send any."""
    return isinstance(value, expected)


def encode_reply(**fields: "Any") -> bytes:
    """Return the line of a reply."""
    return json.dumps(fields).encode() + b"\n"


def encode_error(error: HostError) -> bytes:
    """Return the reply that reports an error."""
    parts = [error.what, error.why, error.hint]
    if isinstance(error, KernelPanic):
        return encode_reply(error=parts, report=error.report, console=error.console)
    return encode_reply(error=parts)


def receive_reply(connection: socket.socket) -> "dict[str, Any]":
    """Wait for a reply; return its fields. Raises HostError, also for the owner's.

    Raises TimeoutError as the socket's timeout says.
    """
    data = b""
    while not data.endswith(b"\n"):
        try:
            piece = connection.recv(MAX_LINE)
        except ConnectionResetError:
            piece = b""
        if not piece:
            raise HostError("the machine has ended", "its owner does not answer any more")
        data += piece
    fields = _parse(data.partition(b"\n")[0])  # a later reply may have come already
    if "report" in fields:
        panic = KernelPanic(*fields["error"])
        panic.report, panic.console = fields["report"], fields["console"]
        raise panic
    if "error" in fields:
        raise HostError(*fields["error"])
    return fields


def _parse(line: bytes) -> "dict[str, Any]":
    try:
        fields = json.loads(line)
    except (ValueError, RecursionError):
        fields = None
    if not isinstance(fields, dict):
        raise HostError("cannot understand the other side", f"{line[:40]!r} is no object of JSON")
    return fields
