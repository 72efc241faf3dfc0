"""Run a virtiofsd for one share, with a connection that QEMU inherits."""

import os
import signal
import socket
from contextlib import contextmanager

from initrd.errors import reason
from initrd.host.system.hosterror import HostError
from initrd.host.system.process import Process
from initrd.host.system.safe_path import new_directory
from initrd.host.system.stream import StderrPipe
from initrd.host.virtiofsd import program
from initrd.host.virtiofsd.program import Virtiofsd
from initrd.options import Share
from initrd.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Self
_HINT = "another TMPDIR"


class Server(Record):
    """A running virtiofsd."""

    process: Process
    connection: socket.socket  # QEMU's end; closed by the caller once QEMU has inherited it


@contextmanager
def serve_share(virtiofsd: Virtiofsd, share: Share, stderr: StderrPipe) -> "Iterator[Server]":
    """Run virtiofsd for `share` as long as the `with` lasts. Raises HostError."""
    with ConnectedListener() as sockets, _open_directory(share.source) as directory:
        command = program.make_program(virtiofsd, share, sockets.listener.fileno(), directory)
        command = command.replace(first=sockets.connect)
        with Process(command, stderr.writer, signal.SIGKILL) as process:  # nothing is in its memory
            sockets.listener.close()
            yield Server(process, sockets.connection)


@contextmanager
def _open_directory(path: str) -> "Iterator[int]":
    try:
        directory = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise HostError(f"cannot share {path}", reason(error)) from error
    try:
        yield directory
    finally:
        os.close(directory)


class ConnectedListener:
    """A listening unix socket with exactly one connection waiting in it.

    For two programs that are started at the same time: the server inherits the listener, the client
    the connection. The socket's name is removed at once, so nothing polls for it, no other process
    can connect. Two processes share the sockets, so that one may call `connect`, and no file is
    left behind when the other is killed meanwhile.
    """

    def __init__(self) -> None:
        self.listener = socket.socket(socket.AF_UNIX)
        self.connection = socket.socket(socket.AF_UNIX)

    def connect(self, folder: str = "") -> None:
        """Connect the two; `folder`: for the socket's name, by default TMPDIR. Raises HostError."""
        parent = folder or os.environ.get("TMPDIR") or "/tmp"  # noqa: S108
        private = os.path.join(parent, f"chrootvm-{os.urandom(8).hex()}")
        with new_directory(private, _HINT) as descriptor:
            # Through a descriptor: the name has to fit into 108 bytes, however long TMPDIR is.
            name = f"/proc/self/fd/{descriptor}/socket"
            self.listener.bind(name)
            self.listener.listen(1)
            self.connection.connect(name)
            os.unlink(name)

    def __enter__(self) -> "Self":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close this process's copies of both ends: each program then detects the other's end."""
        self.listener.close()
        self.connection.close()
