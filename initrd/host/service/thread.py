"""The owner of a machine as a thread of this process."""

import os
import socket
from threading import Event, Thread

from initrd.host.machine.run import HostStreams
from initrd.host.service.owner import Owner
from initrd.host.system.hosterror import HostError
from initrd.host.system.loop import READABLE, Cancelled, Limit, Loop
from initrd.host.system.process import explain_shortage
from initrd.host.system.stream import close_connection

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractContextManager

    # Starts a machine, which ends with the `with`, and returns its owner.
    Own = Callable[[Loop, HostStreams], AbstractContextManager[Owner]]


class OwnerThread:
    """Boots a machine and owns it, until `close`. The machine also ends with this process.

    A thread, because the kernel ends QEMU together with the thread that has started it.
    """

    def __init__(self, own: "Own", limit: Limit | None = None) -> None:
        """Boot with `own`, until `limit`. Raises HostError."""
        self._own, self._limit = own, limit or Limit()
        # Each message brings the socket of a new client; the end of file ends the machine.
        self._sender, self._receiver = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._is_closed = False  # `close` was called
        self._process = os.getpid()
        self._is_up = Event()
        self._owner: Owner | None = None
        self._error: BaseException | None = None
        self._thread = Thread(target=self._run, name="owner of a machine", daemon=True)
        self._thread.start()
        try:
            self._is_up.wait()
        except BaseException:  # KeyboardInterrupt
            self.close()
            raise
        error = self.error
        if error:
            self.close()
            raise error

    def connect(self) -> socket.socket:
        """Return a socket for one request. May be called from any thread. Raises HostError."""
        mine, owners = socket.socketpair()
        try:
            socket.send_fds(self._sender, [b"client"], [owners.fileno()], socket.MSG_NOSIGNAL)
        except OSError as error:
            mine.close()
            raise self._error or HostError(
                "cannot run the command", "the machine has ended"
            ) from error
        finally:
            owners.close()
        return mine

    def close(self) -> None:
        """End the machine, and wait for it. In a forked process: only close its copy."""
        self._is_closed = True
        if os.getpid() == self._process:
            close_connection(self._sender)
        else:
            self._sender.close()
        self._thread.join()

    @property
    def error(self) -> BaseException | None:
        """Why the machine has ended by itself; None if it has not."""
        return self._error

    def _run(self) -> None:
        try:
            with explain_shortage():
                self._own_machine()
        except Cancelled:
            seconds = self._limit.seconds
            why = "cancelled" if seconds is None else f"the machine was not up after {seconds:g} s"
            self._error = HostError("cannot boot", why)
        except BaseException as error:
            self._error = error
        finally:
            self._receiver.close()
            self._is_up.set()

    def _own_machine(self) -> None:
        loop = Loop()
        loop.watch(self._receiver.fileno(), READABLE, lambda _: self._on_client(loop))
        streams = HostStreams(limit=Limit(self._limit.remaining(), lambda: self._is_closed))
        with self._own(loop, streams) as owner:
            self._owner = owner
            self._is_up.set()
            owner.serve()

    def _on_client(self, loop: Loop) -> None:
        data, descriptors, _flags, _address = socket.recv_fds(self._receiver, 16, 1)
        if not data:
            loop.unwatch(self._receiver.fileno())
            if self._owner:
                self._owner.stop()
        for descriptor in descriptors:
            client = socket.socket(fileno=descriptor)
            if self._owner:
                self._owner.add_client(client)
