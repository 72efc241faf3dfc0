"""Serves one directory: the virtiofsd for it, and the connection to that which QEMU is given."""

import os
from contextlib import contextmanager

from initrd.host import virtiofsd
from initrd.host.dialect import Dialect
from initrd.host.failure import HostError, reason
from initrd.host.process import Process
from initrd.host.rendezvous import Rendezvous
from initrd.host.words import Words

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    from collections.abc import Iterator


class Served:
    """A directory that is being served."""

    def __init__(self, tag: str, connection: "socket.socket", process: Process) -> None:
        self.tag = tag
        self.connection = connection  # QEMU's end; to be closed here when QEMU has it
        self.process = process


@contextmanager
def serving(
    dialect: Dialect, tag: str, directory: virtiofsd.Directory, words: Words
) -> "Iterator[Served]":
    """Serve `directory` as long as the `with` lasts."""
    with Rendezvous() as meeting, _opened(directory.path) as top:
        program = virtiofsd.serve(dialect, directory, meeting.listener.fileno(), top)
        with Process(program, words.writer) as process:
            meeting.listener.close()
            yield Served(tag, meeting.connection, process)


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
