"""A connection between two programs that are started at the same time.

We make the listening socket, connect to it and remove its name at once: the server inherits one
end, the client the other. Nobody polls, nobody else can connect, and no file can be left behind.
"""

import os
import socket

from initrd.host.failure import HostError, reason

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Self


class Rendezvous:
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
