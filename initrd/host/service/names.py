"""The names of this user's machines: a private directory with a socket for each.

The owner of a machine holds the lock of its name and listens on its socket. What an owner that has
crashed leaves is removed by the next call.
"""

import os
import signal
import socket
import struct
from contextlib import closing, contextmanager

from initrd.errors import reason
from initrd.host.machine.locate import runtime_directory
from initrd.host.service.requests import INFO, STOP, Request, receive_reply, send_request
from initrd.host.system.hosterror import HostError
from initrd.host.system.loop import READABLE, is_ready
from initrd.host.system.private import PrivateFolder

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from typing import Any

_LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789-"
_MAX_NAME = 63  # characters
_ANSWER_TIMEOUT = 2.0  # seconds; an owner answers at once, unless it still boots
_STOP_TIMEOUT = 40.0  # seconds; the owner itself waits for less
_KILL_TIMEOUT = 5.0  # seconds


def check_name(name: str) -> str:
    """Return a name for a machine. Raises HostError for an invalid one."""
    valid = 0 < len(name) <= _MAX_NAME and not name.startswith("-")
    if not valid or any(letter not in _LETTERS for letter in name):
        why = f"a name has 1 to {_MAX_NAME} of the characters a-z, 0-9 and -, and no - at its start"
        raise HostError(f"cannot use {name!r} as the name of a machine", why)
    return name


def names_directory(environment: "Mapping[str, str]") -> str:
    """Return the path of the directory; it need not exist.

    It is below XDG_RUNTIME_DIR if that is this user's own; else /run/chrootvm for root, and for
    others a directory in /tmp.
    """
    runtime, user = runtime_directory(environment), os.geteuid()
    if runtime:
        return os.path.join(runtime, "chrootvm")
    return f"/tmp/chrootvm-{user}" if user else "/run/chrootvm"  # noqa: S108 - checked when opened


def open_names(environment: "Mapping[str, str]") -> PrivateFolder:
    """Open the directory, made if it is missing. Raises HostError if others could change it."""
    return PrivateFolder.open(names_directory(environment), create=True)


@contextmanager
def hold_name(folder: PrivateFolder, name: str) -> "Iterator[socket.socket]":
    """Hold a name; yield its listening socket. Raises HostError when the name is in use."""
    lock = folder.lock(f"{name}.lock")
    if lock is None:
        hint = f"chrootvm --in {name} -- COMMAND, or chrootvm --stop {name}"
        why = "another machine that runs has it"
        raise HostError(f"cannot give the machine the name {name}", why, hint)
    with lock:
        folder.remove(f"{name}.sock")
        try:
            with closing(folder.listen(f"{name}.sock")) as listener:
                yield listener
        except OSError as error:
            raise HostError(f"cannot listen for the machine {name}", reason(error)) from error
        finally:
            folder.remove(f"{name}.sock")
            folder.remove(f"{name}.lock")


def connect(name: str, environment: "Mapping[str, str]") -> socket.socket:
    """Return a connection to the owner of the machine `name`. Raises HostError."""
    check_name(name)
    with open_names(environment) as folder:
        connection = _connect(folder, name)
    if connection is None:
        running = [machine["name"] for machine in list_machines(environment)]
        known = f"the names of those that run are {', '.join(running)}"
        why = known if running else "no machine that runs has a name"
        raise HostError(f"cannot find the machine {name}", why, "chrootvm --list")
    return connection


def list_machines(environment: "Mapping[str, str]") -> "list[dict[str, Any]]":
    """Return what the owners tell about their machines, sorted by name."""
    with open_names(environment) as folder:
        names = sorted(
            name.removesuffix(".sock") for name, _ in folder.entries() if name.endswith(".sock")
        )
        connections = [(name, _connect(folder, name)) for name in names]
    return [_describe(name, connection) for name, connection in connections if connection]


def stop_machine(name: str, environment: "Mapping[str, str]") -> None:
    """End a machine: orderly, then by force. Raises HostError."""
    with closing(connect(name, environment)) as connection:
        owner = _peer(connection)
        try:
            pidfd = os.pidfd_open(owner)
        except ProcessLookupError:  # it has just ended
            return
        try:
            send_request(connection, Request(STOP))
            if is_ready(pidfd, READABLE, _STOP_TIMEOUT):
                _check_end(connection)
                return
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
            if not is_ready(pidfd, READABLE, _KILL_TIMEOUT):
                raise HostError(f"cannot stop {name}", f"its owner, process {owner}, does not end")
        except OSError as error:
            raise HostError(f"cannot stop {name}", reason(error)) from error
        finally:
            os.close(pidfd)


def _check_end(connection: socket.socket) -> None:
    """Raise the HostError that an owner, which has ended, has sent in reply to STOP."""
    if is_ready(connection.fileno(), READABLE) and connection.recv(1, socket.MSG_PEEK):
        receive_reply(connection)


def _connect(folder: PrivateFolder, name: str) -> socket.socket | None:
    """Return a connection; None when there is no such machine. Remove what a crash has left."""
    try:
        return folder.connect(f"{name}.sock")
    except FileNotFoundError:
        return None
    except ConnectionRefusedError:
        lock = folder.lock(f"{name}.lock")
        if lock:
            with lock:
                folder.remove(f"{name}.sock")
                folder.remove(f"{name}.lock")
        return None
    except OSError as error:
        raise HostError(f"cannot connect to the machine {name}", reason(error)) from error


def _describe(name: str, connection: socket.socket) -> "dict[str, Any]":
    unknown: dict[str, Any] = {
        "name": name,
        "root": "",
        "kernel": "",
        "since": None,
        "owner": 0,
        "commands": [],
    }
    with closing(connection):
        connection.settimeout(_ANSWER_TIMEOUT)
        try:
            send_request(connection, Request(INFO))
            return {**receive_reply(connection), "state": "running"}
        except TimeoutError:
            return {**unknown, "owner": _peer(connection), "state": "starting"}
        except (HostError, OSError):
            return {**unknown, "state": "ending"}


def _peer(connection: socket.socket) -> int:
    """Return the process ID of the other end: SO_PEERCRED of unix(7)."""
    size = struct.calcsize("3i")
    pid, _, _ = struct.unpack(
        "3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size)
    )
    return int(pid)
