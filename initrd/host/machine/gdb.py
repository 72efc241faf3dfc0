"""The socket at which QEMU waits for gdb, and the command that connects gdb to it.

The socket is bound here and inherited by QEMU, so it is there before the command is printed, and a
port that is in use is noticed before anything starts. Who reaches the socket controls the machine:
a unix socket is in a directory of its own, for this user only. A TCP port is on the loopback, which
all users of the host reach.

Sources: QEMU's `docs/system/gdb.rst`; unix(7).
"""

import os
import socket
from contextlib import contextmanager, suppress

from initrd.errors import reason
from initrd.host.machine.locate import runtime_directory
from initrd.host.qemu.argv import path_stream
from initrd.host.system.hosterror import HostError
from initrd.host.system.printable import join_command
from initrd.host.system.rootfile import find_in_root
from initrd.host.system.safe_path import new_directory
from initrd.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_LOOPBACK = "127.0.0.1"
_NAME = "gdb"  # of the unix socket
_MAX_PATH = 107  # bytes of a unix socket's path: unix(7)
# Of vmlinux with its symbols, in a root directory: Debian's packages and Fedora's install it there.
_SYMBOLS = ("usr/lib/debug/boot/vmlinux-{}", "usr/lib/debug/lib/modules/{}/vmlinux")


class GdbSocket(Record):
    """A listening socket, and its address as gdb takes it."""

    listener: socket.socket
    address: str


def stream_by_path(port: int) -> str:
    """Return the stream of a machine's command that is only printed."""
    return f"socket,host={_LOOPBACK},port={port}" if port else path_stream("gdb.sock")


def connect_command(address: str, vmlinux: str) -> str:
    """Return the command that connects gdb; `vmlinux`: its file with symbols, or empty."""
    return join_command(["gdb", *([vmlinux] if vmlinux else []), "-ex", f"target remote {address}"])


def find_vmlinux(image: str, release: str, root: str) -> str:
    """Return the file with the symbols of a kernel image; empty when there is none.

    It is the image itself, that of the build tree whose image this is, or one in the directory
    `root`. Raises HostError when that cannot be searched.
    """
    folder, name = os.path.split(image)
    tree, architectures = os.path.split(os.path.dirname(os.path.dirname(folder)))
    is_in_tree = (architectures, os.path.basename(folder)) == ("arch", "boot")
    installed = (find_in_root(root, path.format(release)) for path in _SYMBOLS if release)
    candidates = (
        image if name == "vmlinux" else "",
        f"{tree}/vmlinux" if is_in_tree else "",
        *installed,
    )
    return next(filter(os.path.isfile, candidates), "")


@contextmanager
def listen(port: int, environment: "Mapping[str, str]") -> "Iterator[GdbSocket]":
    """Listen at a TCP port of the loopback, or for 0 at a unix socket that ends with the `with`.

    Raises HostError.
    """
    if port:
        address = f"{_LOOPBACK}:{port}"
        with _bind(socket.AF_INET, (_LOOPBACK, port), address) as listener:
            yield GdbSocket(listener, address)
        return
    folder = _choose_folder(environment)
    with new_directory(folder, "--gdb=PORT") as descriptor:
        path = f"/proc/self/fd/{descriptor}/{_NAME}"
        try:
            with _bind(socket.AF_UNIX, path, f"{folder}/{_NAME}") as listener:
                yield GdbSocket(listener, f"{folder}/{_NAME}")
        finally:
            with suppress(FileNotFoundError):  # removed by the user, or a program that cleans up
                os.unlink(path)


def _bind(family: int, address: "tuple[str, int] | str", name: str) -> socket.socket:
    listener = socket.socket(family)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(1)
    except OSError as error:
        listener.close()
        hint = "another PORT, or --gdb without one"
        raise HostError(f"cannot wait for gdb at {name}", reason(error), hint) from error
    return listener


def _choose_folder(environment: "Mapping[str, str]") -> str:
    """Return the path of a directory to make, whose socket gdb can connect to."""
    name = f"chrootvm-{os.urandom(8).hex()}"
    folders = (f"{parent}/{name}" for parent in _parents(environment))
    return next(folder for folder in folders if _fits(f"{folder}/{_NAME}"))


def _parents(environment: "Mapping[str, str]") -> "Iterator[str]":
    """Yield the directories for the socket's directory, the best first."""
    runtime = runtime_directory(environment)
    if runtime:
        yield runtime
    yield os.path.abspath(environment.get("TMPDIR") or "/tmp")  # noqa: S108
    yield "/tmp"  # noqa: S108


def _fits(path: str) -> bool:
    """Return whether gdb can connect to a path: one with a colon is a host and a port for it."""
    return ":" not in path and len(os.fsencode(path)) <= _MAX_PATH
