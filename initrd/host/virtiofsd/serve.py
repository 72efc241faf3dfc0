"""Serves one directory: the virtiofsd for it, and the connection to that which QEMU is given."""

import os
import socket
from contextlib import contextmanager

from initrd.errors import HostError, reason
from initrd.host.system.process import Process
from initrd.host.system.stream import StderrPipe
from initrd.host.virtiofsd import program
from initrd.host.virtiofsd.program import Virtiofsd

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    from collections.abc import Iterator
    from typing import Self


class ServedShare:
    """A directory that is being served."""

    def __init__(self, tag: str, connection: "socket.socket", process: Process) -> None:
        self.tag = tag
        self.connection = connection  # QEMU's end; to be closed here when QEMU has it
        self.process = process


@contextmanager
def serve_share(
    dialect: Virtiofsd, tag: str, directory: program.Directory, words: StderrPipe
) -> "Iterator[ServedShare]":
    """Serve `directory` as long as the `with` lasts."""
    with ConnectedListener() as meeting, _opened(directory.path) as top:
        command = program.serve(dialect, directory, meeting.listener.fileno(), top)
        with Process(command, words.writer) as process:
            meeting.listener.close()
            yield ServedShare(tag, meeting.connection, process)


@contextmanager
def _opened(path: str) -> "Iterator[int]":
    try:
        top = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise HostError(f"cannot share {path}", reason(error)) from error
    try:
        yield top
    finally:
        os.close(top)


class ConnectedListener:
    """A listening unix socket with exactly one connection waiting in it."""

    def __init__(self, folder: str = "") -> None:
        self.listener = socket.socket(socket.AF_UNIX)
        self.connection = socket.socket(socket.AF_UNIX)
        top = folder or os.environ.get("TMPDIR") or "/tmp"  # noqa: S108
        private = os.path.join(top, f"chrootvm-{os.urandom(8).hex()}")
        try:
            os.mkdir(private, 0o700)
        except OSError as error:
            self.close()
            raise HostError(f"cannot make {private}", reason(error), "another TMPDIR") from error
        try:
            self._meet(private)
        finally:
            os.rmdir(private)

    def _meet(self, private: str) -> None:
        # Through a descriptor: the name has to fit into 108 bytes, wherever TMPDIR is.
        descriptor = os.open(private, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        name = f"/proc/self/fd/{descriptor}/socket"
        try:
            self.listener.bind(name)
            self.listener.listen(1)
            self.connection.connect(name)
            os.unlink(name)
        finally:
            os.close(descriptor)

    def __enter__(self) -> "Self":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close our copies of both ends: so each program notices when the other ends."""
        self.listener.close()
        self.connection.close()
